//! Keeping from the IP stack what a packet socket has taken already and nothing else on this host wants.
//!
//! What is not here: what is wanted, and by whom. Only datagrams to groups are swallowed, whatever is asked for, and only plain ones; no
//! datagram that the program of [`crate::KernelPath`] shall relay may be named here, for it may stand behind this one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use aya::{
    Ebpf,
    maps::{self, MapData},
    programs::tc::SchedClassifierLink,
};

use crate::{
    error::{AttachError, LoadError, UpdateError},
    layout::Key,
    loader,
    object::{self, Tcx, map_error},
};

static SWALLOW: &[u8] = aya::include_bytes_aligned!("../bpf/swallow.bpf.o");

/// Keys that the program can know; their memory is taken when they come.
const KEYS_MAX: u32 = 65_536;
/// `SWALLOW_ANY` and `SWALLOW_SOURCED` of bpf/swallow.c.
const ANY: u32 = 1;
const SOURCED: u32 = 2;

/// Whose datagrams to a destination are swallowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Senders {
    /// Everyone's.
    All,
    /// Those of these addresses.
    These(BTreeSet<IpAddr>),
}

/// The program and what it knows. Nothing of it outlives this value.
///
/// Belongs to the network namespace of the threads that call [`Swallow::set`].
pub struct Swallow {
    // First, so that nothing is swallowed any more when the rest goes.
    links: HashMap<u32, SchedClassifierLink>,
    ebpf: Ebpf,
    keys: maps::HashMap<MapData, Key, u32>,
    told: BTreeMap<(u32, SocketAddr), Senders>,
}

impl std::fmt::Debug for Swallow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swallow").field("told", &self.told).finish_non_exhaustive()
    }
}

impl Swallow {
    /// Loads the program; nothing is attached yet.
    ///
    /// # Errors
    /// [`LoadError::NotPermitted`] without CAP_BPF and CAP_NET_ADMIN, [`LoadError::Kernel`] where the kernel is too old.
    pub fn load() -> Result<Self, LoadError> {
        let mut ebpf =
            loader::load(SWALLOW, &[("swallowed", KEYS_MAX)]).map_err(|error| LoadError::of(&error))?;
        object::program(&mut ebpf, "swallow")?.load().map_err(|error| LoadError::from_chain(&error))?;
        let keys = object::map(&mut ebpf, "swallowed")?;
        Ok(Self { links: HashMap::new(), ebpf, keys, told: BTreeMap::new() })
    }

    /// Swallows of what arrives for a destination on an interface what these senders send, in place of what was said before. The
    /// interface must be in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`SwallowError`]; then nothing of it is swallowed.
    pub fn set(&mut self, ifindex: u32, group: SocketAddr, senders: Senders) -> Result<(), SwallowError> {
        if self.told.get(&(ifindex, group)) == Some(&senders) {
            return Ok(());
        }
        self.remove(ifindex, group);
        let result = self.write(ifindex, group, &senders);
        self.told.insert((ifindex, group), senders);
        if result.is_err() {
            self.remove(ifindex, group);
        }
        result
    }

    fn write(&mut self, ifindex: u32, group: SocketAddr, senders: &Senders) -> Result<(), SwallowError> {
        if !self.links.contains_key(&ifindex) {
            let program =
                object::program(&mut self.ebpf, "swallow").map_err(|error| object::refused(&error))?;
            let link = object::attach_tcx(program, ifindex).map_err(|problem| match problem {
                Tcx::Lacking => SwallowError::NoTcx,
                Tcx::Failed(error) => error.into(),
            })?;
            self.links.insert(ifindex, link);
        }
        for (key, value) in keys(ifindex, group, senders) {
            self.keys.insert(key, value, 0).map_err(map_error)?;
        }
        Ok(())
    }

    /// Swallows nothing more of a destination.
    pub fn remove(&mut self, ifindex: u32, group: SocketAddr) {
        let Some(senders) = self.told.remove(&(ifindex, group)) else { return };
        // First the key of all senders: without it the others are not looked at.
        for (key, _) in keys(ifindex, group, &senders).into_iter().rev() {
            // Not there if it could not be written.
            let _ = self.keys.remove(&key);
        }
        let others = (ifindex, SocketAddr::from(([0, 0, 0, 0], 0)))..;
        if self.told.range(others).next().is_none_or(|((other, _), _)| *other != ifindex) {
            self.links.remove(&ifindex);
        }
    }

    /// Forgets an interface that is gone.
    pub fn detach(&mut self, ifindex: u32) {
        let groups = self.told.keys().filter(|(known, _)| *known == ifindex).map(|(_, group)| *group);
        groups.collect::<Vec<_>>().into_iter().for_each(|group| self.remove(ifindex, group));
    }

    /// Whether anything of a destination is swallowed.
    pub fn swallows(&self, ifindex: u32, group: SocketAddr) -> bool {
        self.told.contains_key(&(ifindex, group))
    }

    /// Whether nothing at all is swallowed.
    pub fn is_idle(&self) -> bool {
        self.told.is_empty()
    }
}

/// Why a destination's datagrams go on to the stack.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwallowError {
    /// The kernel has no tcx links (Linux 6.6), and what swallows must not outlive its process.
    #[error("this kernel cannot attach eBPF programs by tcx links (Linux 6.6 can)")]
    NoTcx,
    /// The program cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The map cannot be written.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// The keys of a destination in the order in which they may be written: that of all senders last.
fn keys(ifindex: u32, group: SocketAddr, senders: &Senders) -> Vec<(Key, u32)> {
    let all = Key::new(ifindex, group, None);
    match senders {
        Senders::All => vec![(all, ANY)],
        Senders::These(sources) => {
            let of_source = |source: &IpAddr| (Key::new(ifindex, group, Some(*source)), ANY);
            sources.iter().map(of_source).chain([(all, SOURCED)]).collect()
        }
    }
}
