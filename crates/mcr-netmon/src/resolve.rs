//! Asking the kernel for neighbours: to find one out, and to keep it known while nothing but this caller uses it.

use std::io;
use std::net::IpAddr;

use crate::requests::Requests;
use crate::wire::MESSAGE_HEADER_BYTES;

/// Has the kernel resolve neighbours. What becomes of it, a [`Monitor`](crate::Monitor) tells. Needs CAP_NET_ADMIN.
///
/// For those who send frames past the kernel's own neighbour handling: it neither resolves an address for them, nor learns from
/// what they send that a known one is still in use.
#[derive(Debug)]
pub struct Resolver {
    requests: Requests,
}

/// What to do about a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ask {
    /// Find it out, as if something were sent to it; confirm it, if it is known but stale (NTF_USE).
    Use,
    /// As `Use`, and from now on keep it confirmed (NTF_EXT_MANAGED, Linux 5.16; as `Use` before). It stays so, also after this
    /// process, until `Use` is asked for or the interface goes.
    Keep,
}

impl Resolver {
    /// Opens a netlink socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// Those of `socket(2)`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()? })
    }

    /// Asks for a neighbour of an interface. Returns at once, before it is found.
    ///
    /// An entry that was set by hand is not to be asked for: the kernel would take it for one to be resolved.
    ///
    /// # Errors
    /// The kernel's: no right, no such interface, a full table.
    pub fn ask(&mut self, index: u32, address: IpAddr, ask: Ask) -> io::Result<()> {
        match (self.requests.acknowledged(request(index, address, ask)), ask) {
            // An attribute that it does not know.
            (Err(error), Ask::Keep) if error.raw_os_error() == Some(EINVAL) => {
                self.requests.acknowledged(request(index, address, Ask::Use))
            }
            (result, _) => result,
        }
    }
}

const EINVAL: i32 = 22;

/// RTM_NEWNEIGH: the netlink header, `struct ndmsg`, the address, the extended flags (rtnetlink(7), linux/neighbour.h).
fn request(index: u32, address: IpAddr, ask: Ask) -> Vec<u8> {
    const RTM_NEWNEIGH: u16 = 28;
    const NLM_F_REQUEST_ACK_CREATE: u16 = 0x1 | 0x4 | 0x400;
    const NTF_USE: u8 = 1;
    const NDA_DST: u16 = 1;
    const NDA_FLAGS_EXT: u16 = 15;
    const NTF_EXT_MANAGED: u32 = 1;
    let (family, octets) = match address {
        IpAddr::V4(v4) => (2, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, v6.octets().to_vec()),
    };
    let mut bytes = vec![0; MESSAGE_HEADER_BYTES];
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(index.to_ne_bytes());
    // State none, flags, type.
    bytes.extend([0, 0, NTF_USE, 0]);
    let mut attribute = |kind: u16, value: &[u8]| {
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
    };
    attribute(NDA_DST, &octets);
    if ask == Ask::Keep {
        attribute(NDA_FLAGS_EXT, &NTF_EXT_MANAGED.to_ne_bytes());
    }
    let length = bytes.len() as u32;
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&RTM_NEWNEIGH.to_ne_bytes());
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST_ACK_CREATE.to_ne_bytes());
    bytes
}
