//! What becomes of a frame, as the program counts it.

/// Declares the verdicts in the order of bpf/xsk.h, with the name of each.
macro_rules! verdicts {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// What became of a frame. All but the first went to the stack. The names are those of the reflector's own reasons.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Verdict {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Verdict {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name in statistics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

verdicts! {
    /// Redirected to a socket.
    Redirected = "redirected",
    /// Wanted, but its queue has no socket.
    NoSocket = "no_socket",
    /// It ends before its headers do.
    Short = "short",
    /// Its destination is not our MAC address.
    DstMac = "dst_mac",
    /// It was sent to a group.
    DstGroup = "dst_group",
    /// Its source has another OUI.
    SrcOui = "src_oui",
    /// Its source is a group's address.
    SrcGroup = "src_group",
    /// Its source is our own address.
    SrcSelf = "src_self",
    /// It carries something else.
    EtherType = "ethertype",
    /// It has more than two tags.
    VlanDepth = "vlan_depth",
    /// It is longer than the MTU.
    Oversize = "oversize",
    /// Its IP header is damaged.
    IpHeader = "ip_header",
    /// It is part of a datagram.
    Fragment = "fragment",
    /// It is not UDP.
    Protocol = "protocol",
    /// A length field says more than there is, or too little.
    LengthField = "length_field",
    /// It is for another port.
    Port = "port",
    /// It has no signature.
    Signature = "signature",
    /// It has a signature that is not wanted.
    FamilyOff = "family_off",
    /// Nothing says that it is a tester's.
    NotAllowed = "not_allowed",
    /// An OAM frame of another level.
    Level = "level",
    /// An OAM operation that is not answered.
    Request = "request",
}

/// Frames by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; Verdict::ALL.len()]);

impl Counts {
    /// How many.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> u64 {
        self.0[verdict as usize]
    }

    /// All frames that the program saw.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (Verdict, u64)> + '_ {
        Verdict::ALL.iter().map(|&verdict| (verdict, self.of(verdict)))
    }

    pub(super) fn add(&mut self, verdict: Verdict, frames: u64) {
        self.0[verdict as usize] += frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdicts_are_those_of_the_program() {
        let source = include_str!("../../bpf/xsk.h");
        let (_, list) = source.split_once("enum verdict {").expect("it is there");
        let (list, _) = list.split_once("};").expect("it ends");
        let in_c: Vec<_> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let in_rust: Vec<_> = Verdict::ALL.iter().map(|verdict| format!("{verdict:?}")).collect();
        assert_eq!(in_c.len(), in_rust.len() + 1, "and their number at the end");
        for (c, rust) in in_c.iter().zip(&in_rust).skip(1) {
            let words = c.trim_start_matches("PASS_").replace('_', "");
            assert!(words.eq_ignore_ascii_case(rust), "{c} is not {rust}");
        }
    }
}
