//! Multicast routing in the kernel, set up as smcroute does (linux/mroute.h): an interface table, then a route for each
//! group. It needs no process, only the socket, with which all of it ends.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::Context as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::{
    case::{self, Case},
    lab::{Lab, output_name},
    sys,
};

const MRT_INIT: i32 = 200;
const MRT_ADD_VIF: i32 = 202;
const MRT_ADD_MFC: i32 = 204;
/// The interface is given by its index.
const VIFF_USE_IFINDEX: u8 = 8;
/// MAXVIFS.
const INTERFACES_MAX: usize = 32;
/// The first entry of the interface table; outputs follow.
const INPUT: u16 = 0;
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

pub(super) fn start(lab: &Lab, case: Case) -> anyhow::Result<OwnedFd> {
    let relay = &lab.line.relay;
    let open =
        || socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::IGMP));
    let socket = relay.try_enter(open)?.context("cannot open a raw socket")?;
    let set = |name, value: &[u8]| sys::set_option(socket.as_fd(), libc::IPPROTO_IP, name, value);
    set(MRT_INIT, &1_i32.to_ne_bytes()).context("the kernel does not route multicast")?;
    let outputs = (0..case.outputs()).map(output_name);
    for (entry, ifname) in (INPUT..).zip([String::from("in0")].into_iter().chain(outputs)) {
        let index = relay.link_index(&ifname)?;
        set(MRT_ADD_VIF, &interface(entry, index)).with_context(|| format!("cannot route by {ifname}"))?;
    }
    for stream in 0..case.rules() {
        let group = case::group(case::INPUT_BYTE, stream);
        set(MRT_ADD_MFC, &route(group, case.outputs())).with_context(|| format!("cannot route {group}"))?;
    }
    Ok(socket)
}

/// `struct vifctl`: entry, flags, least TTL, rate limit (unused), interface index, remote address (unused).
fn interface(entry: u16, index: u32) -> Vec<u8> {
    [&entry.to_ne_bytes()[..], &[VIFF_USE_IFINDEX, 1], &[0; 4], &index.to_ne_bytes(), &[0; 4]].concat()
}

/// `struct mfcctl`: source, group, input, least TTL of each output or 0 for those that get nothing, padding, counts.
fn route(group: Ipv4Addr, outputs: u8) -> Vec<u8> {
    let mut ttls = [0; INTERFACES_MAX];
    ttls[1..=usize::from(outputs)].fill(1);
    [&SOURCE.octets()[..], &group.octets(), &INPUT.to_ne_bytes(), &ttls, &[0; 2], &[0; 16]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernel_has_them() {
        assert_eq!(interface(0, 7).len(), 16);
        assert_eq!(route(Ipv4Addr::new(239, 1, 0, 1), 10).len(), 60);
    }
}
