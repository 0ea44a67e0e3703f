//! A sink that costs next to nothing: a program at the interface's ingress that drops. The device has counted the frame by then, and
//! nothing behind has seen it. (A chain of nf_tables there took 15 % of the relay's core.)

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use mcr_lab::Namespace;

use crate::bpf;

/// Drops all frames that an interface receives, until it is dropped itself.
#[derive(Debug)]
#[must_use = "frames are dropped as long as this lives"]
pub(crate) struct DropAll {
    _link: OwnedFd,
}

impl DropAll {
    pub(crate) fn new(namespace: &Namespace, ifname: &str) -> anyhow::Result<Self> {
        let index = namespace.link_index(ifname)?;
        let link = namespace
            .try_enter(|| bpf::drop_at_ingress(index))?
            .with_context(|| format!("cannot have {ifname} drop all (tcx, Linux 6.6)"))?;
        Ok(Self { _link: link })
    }
}
