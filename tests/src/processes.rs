//! Processes as /proc shows them.

use std::fs;

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    parent: u32,
    /// In clock ticks since boot.
    started: u64,
}

impl Process {
    /// Whether it still runs; one that has ended and was not waited for does not.
    pub fn is_alive(&self) -> bool {
        read(self.pid).is_some_and(|now| now.started == self.started)
    }
}

/// Everything that `pid` has started, and what that has started.
pub fn descendants(pid: u32) -> Vec<Process> {
    let all: Vec<_> = fs::read_dir("/proc")
        .expect("/proc is there")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .collect();
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        let children = all.iter().filter(|process| process.parent == parent);
        parents.extend(children.clone().map(|child| child.pid));
        found.extend(children);
    }
    found
}

/// Reads /proc/PID/stat; none if the process is gone or a zombie. proc_pid_stat(5) numbers the fields from 1; those after
/// the name, which may hold anything and ends with the last bracket, begin with 3.
fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    if matches!(field(3)?, "Z" | "X") {
        return None;
    }
    Some(Process { pid, parent: field(4)?.parse().ok()?, started: field(22)?.parse().ok()? })
}
