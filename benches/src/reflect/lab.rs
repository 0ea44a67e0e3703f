//! A tester's host and a reflector's, and the cable between them.

use anyhow::Context as _;
use mcr_lab::Namespace;

use super::frame::{REFLECTOR_MAC, TESTER_MAC};
use crate::lab::{Backlog, DropAll};

/// The reflector's interface.
pub(super) const REFLECTOR_IF: &str = "port0";
/// The tester's interface.
pub(super) const TESTER_IF: &str = "test0";

/// Two namespaces and a veth pair. Neither host has an address or says a word by itself.
///
/// Nothing is steered: as veth has it, what one end sends is received on the same core, up to where it is put into a socket of the
/// other end.
#[derive(Debug)]
pub(super) struct Cable {
    pub(super) tester: Namespace,
    pub(super) reflector: Namespace,
    _dropping: DropAll,
    _backlog: Backlog,
}

impl Cable {
    pub(super) fn new() -> anyhow::Result<Self> {
        let backlog = Backlog::raise()?;
        let (tester, reflector) = (Namespace::new()?, Namespace::new()?);
        for namespace in [&tester, &reflector] {
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        mcr_lab::veth((&tester, TESTER_IF), (&reflector, REFLECTOR_IF))?;
        tester.set_mac(TESTER_IF, TESTER_MAC)?;
        reflector.set_mac(REFLECTOR_IF, REFLECTOR_MAC)?;
        // What leaves the tester is what leaves a network card: frames, with their checksums.
        for offload in ["tx-udp-segmentation", "tx-checksum-ip-generic"] {
            tester.set_offload(TESTER_IF, offload, false)?;
        }
        for (namespace, ifname) in [(&tester, TESTER_IF), (&reflector, REFLECTOR_IF)] {
            namespace.set_up(ifname)?;
        }
        for (namespace, ifname) in [(&tester, TESTER_IF), (&reflector, REFLECTOR_IF)] {
            namespace.wait_running(ifname)?;
        }
        // Behind the tester's socket nobody wants the replies.
        let dropping = DropAll::new(&tester, TESTER_IF).context("the tester's stack cannot be kept out")?;
        Ok(Self { tester, reflector, _dropping: dropping, _backlog: backlog })
    }
}
