//! Settings of the whole host that a test cannot do without. Whoever changes one holds the [`traffic_lock`](crate::traffic_lock).

use std::fs;

/// How many frames may wait for a core.
pub const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";

/// A sysctl of the whole host, put back as it was when this is dropped.
#[derive(Debug)]
pub struct HostSetting {
    path: &'static str,
    before: String,
}

impl HostSetting {
    /// None where this process may not set it: outside of the host's first network namespace.
    pub fn set(path: &'static str, value: u64) -> Option<Self> {
        let before = fs::read_to_string(path).ok()?;
        fs::write(path, value.to_string()).ok().map(|()| Self { path, before })
    }
}

impl Drop for HostSetting {
    fn drop(&mut self) {
        let _ = fs::write(self.path, &self.before);
    }
}
