//! What the tests on real interfaces share.
#![allow(clippy::unwrap_used)] // Whatever fails here fails the test.
#![allow(unused)] // Each test uses its part.

use std::os::fd::AsFd;
use std::time::Duration;

use mcr_lab::{Namespace, veth};
use mcr_xdp::{Binding, Config, Opened, Shape, Socket};

mod redirect;
pub(crate) use redirect::Redirect;

pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
pub(crate) const BYTES: usize = 128;

pub(crate) struct Pair {
    pub(crate) near: Namespace,
    pub(crate) far: Namespace,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let (near, far) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        // Nothing but what the test sends.
        for namespace in [&near, &far] {
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        }
        veth((&near, "near"), (&far, "far")).unwrap();
        for (namespace, ifname) in [(&near, "near"), (&far, "far")] {
            namespace.set_up(ifname).unwrap();
        }
        near.wait_running("near").unwrap();
        far.wait_running("far").unwrap();
        Self { near, far }
    }

    pub(crate) fn near(&self, native: bool, shape: Shape) -> (Redirect, Socket) {
        let (redirect, opened) = open(&self.near, "near", native, shape);
        (redirect, Socket::new(opened).unwrap())
    }

    pub(crate) fn far(&self, native: bool, shape: Shape) -> (Redirect, Socket) {
        let (redirect, opened) = open(&self.far, "far", native, shape);
        (redirect, Socket::new(opened).unwrap())
    }
}

pub(crate) fn open(namespace: &Namespace, ifname: &str, native: bool, shape: Shape) -> (Redirect, Opened) {
    let ifindex = namespace.link_index(ifname).unwrap();
    namespace.enter(|| {
        let redirect = Redirect::attach(ifindex, native).unwrap();
        let binding = if native { Binding::Best } else { Binding::Copy };
        let opened = Opened::open(&Config { shape, binding, ..Config::new(ifindex, 0) }).unwrap();
        redirect.add(0, opened.socket.as_fd()).unwrap();
        (redirect, opened)
    })
}

/// A frame that no other is equal to: addresses, an EtherType for experiments, its number throughout.
pub(crate) fn content(number: u64) -> [u8; BYTES] {
    let mut data = [0; BYTES];
    data[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    data[12..14].copy_from_slice(&[0x88, 0xb5]);
    for (at, chunk) in data[16..].chunks_mut(8).enumerate() {
        chunk.copy_from_slice(
            &number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(at as u64).to_le_bytes(),
        );
    }
    data[16..24].copy_from_slice(&number.to_le_bytes());
    data
}

pub(crate) fn swap_addresses(bytes: &mut [u8]) {
    let (destination, source) = bytes[..12].split_at_mut(6);
    destination.swap_with_slice(source);
}
