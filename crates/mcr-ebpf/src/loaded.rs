//! Which BPF objects the kernel has, whoever made them: for whoever wants to see that nothing stays.

/// The numbers of all BPF objects of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Programs.
    pub programs: Vec<u32>,
    /// Maps.
    pub maps: Vec<u32>,
    /// Links: programs attached to something.
    pub links: Vec<u32>,
}

/// Asks the kernel for the numbers of all BPF objects. What goes away while it is asked is left out, and so is everything where the
/// right to ask (CAP_SYS_ADMIN) is missing.
pub fn loaded() -> Loaded {
    Loaded {
        programs: aya::programs::loaded_programs().flatten().map(|program| program.id()).collect(),
        maps: aya::maps::loaded_maps().flatten().map(|map| map.id()).collect(),
        links: aya::programs::loaded_links().flatten().map(|link| link.id()).collect(),
    }
}
