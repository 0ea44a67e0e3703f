//! Receive packet steering: on which core the kernel handles what an interface receives.

use std::{fs, thread};

use anyhow::{Context as _, anyhow, ensure};
use mcr_lab::Namespace;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// Has the frames that `ifname` receives handled on `core`.
pub(crate) fn to_core(namespace: &Namespace, ifname: &str, core: usize) -> anyhow::Result<()> {
    let set = || -> anyhow::Result<()> {
        setns(namespace.fd(), CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
        own_sysfs()?;
        let path = format!("/sys/class/net/{ifname}/queues/rx-0/rps_cpus");
        let mask = 1_u128 << core;
        fs::write(&path, bitmap(mask)).with_context(|| format!("cannot write {path}"))?;
        let now = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let now = u128::from_str_radix(&now.trim().replace(',', ""), 16)?;
        ensure!(now == mask, "{path} reads {now:x}, not {mask:x}");
        Ok(())
    };
    // Mounts and namespaces of a thread end with it.
    let result = thread::scope(|scope| scope.spawn(set).join());
    result
        .map_err(|_| anyhow!("a thread has panicked"))?
        .with_context(|| format!("cannot steer what {ifname} receives"))
}

/// Gives the calling thread a /sys of the network namespace it is in: an instance of sysfs shows the one it was mounted from.
fn own_sysfs() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    const NONE: Option<&str> = None;
    // Or the mount below would be everybody's.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("cannot make mounts private")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE).context("cannot mount sysfs")
}

/// A mask of cores as the kernel takes it: 32 bits between commas.
fn bitmap(mask: u128) -> String {
    let groups = (0..4).rev().map(|group| format!("{:08x}", (mask >> (32 * group)) as u32));
    groups.skip_while(|group| group == "00000000").collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::bitmap;

    #[test]
    fn a_mask_is_written_in_groups_of_32_bits() {
        assert_eq!(bitmap(0b10), "00000002");
        assert_eq!(bitmap(1 << 33), "00000002,00000000");
    }
}
