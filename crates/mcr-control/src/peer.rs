//! Who is at the other end of a connection, and what they may do. The kernel's word, not theirs.

use std::{ffi::OsString, io, os::unix::ffi::OsStrExt};

use nix::{
    getsockopt_impl,
    sys::socket::{GetSockOpt, sockopt::GetOsString},
};
use tokio::net::UnixStream;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Anything.
    Change,
    /// Look.
    Read,
}

/// Who may do what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admission {
    pub(crate) owner_uid: u32,
    pub(crate) group_gid: Option<u32>,
    pub(crate) others_may_read: bool,
}

/// A client's process, as it was when it connected.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

impl Admission {
    /// The peer's rights; none at all is `None`.
    pub(crate) fn rights(&self, peer: &Peer) -> Option<Rights> {
        let member = |gid: u32| peer.gid == gid || peer.groups.contains(&gid);
        if peer.uid == 0 || peer.uid == self.owner_uid || self.group_gid.is_some_and(member) {
            Some(Rights::Change)
        } else {
            self.others_may_read.then_some(Rights::Read)
        }
    }
}

/// Supplementary groups that are looked at. A process in more is taken to be in none: the kernel then hands out no list.
const GROUPS_MAX: usize = 4096;

/// SO_PEERGROUPS (Linux 4.13): the supplementary groups at the time of `connect`, as an array of native 32-bit numbers.
#[derive(Debug, Clone, Copy)]
struct PeerGroups;

// nix has no type for it; of its value types the string is the one whose length the kernel sets.
getsockopt_impl!(
    PeerGroups,
    libc::SOL_SOCKET,
    libc::SO_PEERGROUPS,
    OsString,
    GetOsString<[u8; 4 * GROUPS_MAX]>
);

impl Peer {
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let groups = match PeerGroups.get(stream) {
            Ok(groups) => numbers(groups.as_bytes()),
            Err(_) => Vec::new(),
        };
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), groups })
    }
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|number| u32::from_ne_bytes(*number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMISSION: Admission = Admission { owner_uid: 100, group_gid: Some(7), others_may_read: false };

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn root_the_owner_and_the_group_may_do_anything() {
        for peer in [peer(0, 0, &[]), peer(100, 100, &[]), peer(5, 7, &[]), peer(5, 5, &[1, 7])] {
            assert_eq!(ADMISSION.rights(&peer), Some(Rights::Change), "{peer:?}");
        }
    }

    #[test]
    fn others_may_read_only_if_that_is_configured() {
        let other = peer(5, 5, &[1, 2]);
        assert_eq!(ADMISSION.rights(&other), None);
        assert_eq!(Admission { others_may_read: true, ..ADMISSION }.rights(&other), Some(Rights::Read));
    }

    #[test]
    fn without_a_group_no_group_helps() {
        let admission = Admission { group_gid: None, ..ADMISSION };
        assert_eq!(admission.rights(&peer(5, 0, &[0])), None);
    }

    #[test]
    fn a_peer_is_who_the_kernel_says() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let peer = runtime.block_on(async {
            let (one, _other) = UnixStream::pair().unwrap();
            Peer::of(&one).unwrap()
        });
        assert_eq!((peer.uid, peer.gid), (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
        let own: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(peer.groups, own);
    }
}
