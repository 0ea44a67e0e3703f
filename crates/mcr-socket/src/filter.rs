//! Kernel filters that let through only what somebody wants.
//!
//! A filter is compiled from what is wanted into classic BPF, by binary search over the addresses, so that foreign
//! traffic costs a handful of instructions and never reaches user space. Where much is wanted, or it changes often, a
//! [`LiveFilter`] looks it up in a map instead. A filter looks at packets only as far as it must;
//! whatever it lets through is still parsed and judged there. Invariant: a filter refuses nothing that is wanted,
//! whichever [`Precision`] it has.

mod assemble;
mod codepoints;
mod compile;
#[cfg(test)]
mod interpret;
mod live;
mod program;
#[cfg(test)]
mod tests;

pub use codepoints::Codepoints;
pub use live::LiveFilter;

use crate::sys;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// The most instructions of one program (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// One thing to let through: UDP datagrams to this address and port, from this source or from any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wanted {
    /// The group, or a unicast address.
    pub destination: IpAddr,
    /// The UDP port.
    pub port: u16,
    /// The only source, if there is just one. Of another family than the destination it matches nothing.
    pub source: Option<IpAddr>,
}

/// What the frames of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterLink {
    /// An Ethernet header: Ethernet, veth, bridge, loopback.
    Ethernet,
    /// The IP header: tun, and tunnels without a link layer.
    RawIp,
}

/// How much a filter knows of what is wanted. Each lets through everything the one before does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Precision {
    /// Addresses, ports and sources. What also comes, on purpose, so that it can be counted: fragments to a wanted
    /// address, packets to it whose headers do not add up, and IPv6 packets to it with extension headers.
    Exact,
    /// Addresses, whatever the port and source.
    Addresses,
    /// Any UDP of the families wanted, and any IPv6 with extension headers if IPv6 is.
    AnyUdp,
}

/// A filter, ready to be attached any number of times.
#[derive(Clone, Debug)]
pub struct Filter {
    /// From the most precise that fits to the coarsest; never empty.
    programs: Vec<Program>,
}

type Program = (Precision, Vec<libc::sock_filter>);

/// Why a filter was not attached. The earlier filter, if any, is still in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Even the coarsest program needs more memory than a socket may have.
    #[error("no memory for a filter of {instructions} instructions: raise net.core.optmem_max")]
    NoRoom {
        /// Length of the shortest program tried.
        instructions: usize,
    },
    /// Anything else the kernel said; EPERM means that the filter of this socket is locked.
    #[error("SO_ATTACH_FILTER failed")]
    Attach(#[source] io::Error),
}

impl Filter {
    /// Compiles the filter for one interface.
    ///
    /// Admits a frame only if it is addressed to this host, to a group or to all (not `PACKET_OTHERHOST`, not
    /// `PACKET_OUTGOING`), has no VLAN tag but a priority tag (a tagged frame belongs to the VLAN's own interface), and
    /// carries UDP that is wanted; see [`Precision`] for what else passes. Nothing wanted gives a filter that drops
    /// everything.
    pub fn compile(wanted: &[Wanted], link: FilterLink) -> Self {
        Self::compile_marked(wanted, link, Codepoints::ALL)
    }

    /// As [`Filter::compile`], but only for packets that bear one of these codepoints. Filters of sets that share no codepoint
    /// divide what is wanted among several sockets; every [`Precision`] keeps to that.
    pub fn compile_marked(wanted: &[Wanted], link: FilterLink, marked: Codepoints) -> Self {
        let targets = compile::Targets::new(wanted);
        let mut programs: Vec<_> = [Precision::Exact, Precision::Addresses, Precision::AnyUdp]
            .into_iter()
            .map(|precision| (precision, compile::program(&targets, link, precision, marked)))
            .filter(|(_, program)| program.len() <= INSTRUCTIONS_MAX)
            .collect();
        // A coarser program is there to need less room; one that needs as much has no use.
        programs.dedup_by(|coarser, finer| coarser.1.len() >= finer.1.len());
        Self { programs }
    }

    /// The filter that lets nothing through, for sockets that are only there to send or to join.
    pub fn drop_all() -> Self {
        Self { programs: vec![(Precision::Exact, compile::drop_all())] }
    }

    /// The coarsest: all UDP of the families IPv4 and IPv6, as far as they are wanted.
    pub(crate) fn any_udp((ipv4, ipv6): (bool, bool), link: FilterLink, marked: Codepoints) -> Self {
        let v4 = ipv4.then_some(IpAddr::from([0; 4]));
        let v6 = ipv6.then_some(IpAddr::from([0; 16]));
        let wanted: Vec<_> = [v4, v6]
            .into_iter()
            .flatten()
            .map(|destination| Wanted { destination, port: 0, source: None })
            .collect();
        let program = compile::program(&compile::Targets::new(&wanted), link, Precision::AnyUdp, marked);
        Self { programs: vec![(Precision::AnyUdp, program)] }
    }

    /// A filter of somebody else's making: classic BPF as `struct sock_filter` has it, code, jt, jf, k. The kernel checks it
    /// when it is attached. Its precision is said to be exact, for want of another program to fall back to.
    ///
    /// Panics if there is no instruction.
    pub fn from_instructions(instructions: impl IntoIterator<Item = (u16, u8, u8, u32)>) -> Self {
        let program: Vec<_> =
            instructions.into_iter().map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
        assert!(!program.is_empty(), "a filter has at least one instruction");
        Self { programs: vec![(Precision::Exact, program)] }
    }

    /// What the program knows that [`attach`] tries first.
    pub fn precision(&self) -> Precision {
        self.programs[0].0
    }

    /// Length of that program.
    pub fn instructions(&self) -> usize {
        self.programs[0].1.len()
    }
}

/// Puts a filter on a socket, in place of the one it has. The socket may be live and in use by another process through a
/// duplicate: at no moment is anything wanted refused. What is queued at it already stays queued.
///
/// Returns the precision that is now in force. It is coarser than the filter's own if `net.core.optmem_max` (20 KiB
/// before Linux 6.9) has no room for the long program, which the kernel stores in about 16 bytes an instruction.
///
/// # Errors
/// [`AttachError`].
pub fn attach(fd: impl AsFd, filter: &Filter) -> Result<Precision, AttachError> {
    let fd = fd.as_fd();
    let (coarsest, finer) = match filter.programs.as_slice() {
        [only] => (only, [].as_slice()),
        [finest, ..] if fits(fd, finest)? => return Ok(finest.0),
        // There was no room beside the filter it has: the coarsest, which is tiny, makes it while the others are tried.
        [finer @ .., coarsest] => (coarsest, finer),
        [] => unreachable!("a filter has at least one program"),
    };
    if !fits(fd, coarsest)? {
        return Err(AttachError::NoRoom { instructions: coarsest.1.len() });
    }
    for program in finer {
        if fits(fd, program)? {
            return Ok(program.0);
        }
    }
    Ok(coarsest.0)
}

/// Attaches one program, unless there is no memory for it.
fn fits(fd: BorrowedFd<'_>, program: &Program) -> Result<bool, AttachError> {
    match sys::attach_filter(fd, &program.1) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok(false),
        Err(error) => Err(AttachError::Attach(error)),
    }
}
