//! What the kernel says this process is (proc_pid_status(5)), and the two attributes that seal it.

use std::{fs, io};

use nix::sys::{prctl, signal::Signal};

use crate::{
    Ids,
    error::{ConfineError, Step},
};

pub(crate) fn expect_one_thread() -> Result<(), ConfineError> {
    let status = Status::read().map_err(ConfineError::at(Step::BeAlone))?;
    match status.field("Threads") {
        Some("1") => Ok(()),
        other => Err(ConfineError::at(Step::BeAlone)(format!("there are {}", other.unwrap_or("unknown")))),
    }
}

/// No more rights by exec, and no tracing or dumping by others of the same user.
pub(crate) fn seal() -> Result<(), ConfineError> {
    prctl::set_no_new_privs().map_err(ConfineError::at(Step::RefusePrivileges))?;
    prctl::set_dumpable(false).map_err(ConfineError::at(Step::ForbidTracing))
}

/// Ends this process at once when its parent ends, also while it is stopped and would not notice its channel's end. A change of
/// user takes this back, so it comes after.
pub(crate) fn die_with_parent() -> Result<(), ConfineError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(ConfineError::at(Step::DieWithParent))
}

/// Makes sure that nothing is left. A kernel may have capabilities that nobody here knows by name; this sees them too.
pub(crate) fn verify(wanted: Option<Ids>, bounding_empty: bool) -> Result<Ids, ConfineError> {
    let status = Status::read().map_err(ConfineError::at(Step::Verify))?;
    let problem = |what: &str| {
        ConfineError::at(Step::Verify)(format!("{what} is {:?}", status.field(what).unwrap_or("missing")))
    };
    let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"];
    let sets = sets.into_iter().filter(|set| bounding_empty || *set != "CapBnd");
    for set in sets {
        if status.field(set).is_none_or(|bits| bits.bytes().any(|digit| digit != b'0')) {
            return Err(problem(set));
        }
    }
    if status.field("NoNewPrivs") != Some("1") {
        return Err(problem("NoNewPrivs"));
    }
    let uid = status.only_id("Uid").ok_or_else(|| problem("Uid"))?;
    let gid = status.only_id("Gid").ok_or_else(|| problem("Gid"))?;
    if let Some(wanted) = wanted {
        if wanted.uid != uid {
            return Err(problem("Uid"));
        }
        if wanted.gid != gid {
            return Err(problem("Gid"));
        }
        if status.field("Groups") != Some("") {
            return Err(problem("Groups"));
        }
    }
    Ok(Ids { uid, gid })
}

struct Status(String);

impl Status {
    fn read() -> io::Result<Self> {
        fs::read_to_string("/proc/thread-self/status").map(Self)
    }

    fn field(&self, name: &str) -> Option<&str> {
        let value = |line: &'_ str| line.strip_prefix(name)?.strip_prefix(':').map(str::len);
        self.0.lines().find_map(|line| value(line).map(|length| line[line.len() - length..].trim()))
    }

    /// The id if real, effective, saved and file-system id are the same.
    fn only_id(&self, name: &str) -> Option<u32> {
        let mut ids = self.field(name)?.split_whitespace().map(str::parse);
        let first = ids.next()?.ok()?;
        ids.all(|id| id == Ok(first)).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = Status("Name:\tmcrd\nNgid:\t7\nGid:\t5\t5\t5\t5\nUid:\t1\t1\t0\t1\nGroups:\t \n".into());
        assert_eq!(status.field("Ngid"), Some("7"));
        assert_eq!(status.field("Groups"), Some(""));
        assert_eq!(status.field("CapBnd"), None);
        assert_eq!(status.only_id("Gid"), Some(5));
        assert_eq!(status.only_id("Uid"), None, "the saved user is another");
    }

    #[test]
    fn a_process_with_more_than_one_thread_is_not_confined() {
        let other = std::thread::spawn(std::thread::park);
        let error = expect_one_thread().expect_err("there are two at least");
        assert_eq!(error.step, Step::BeAlone);
        other.thread().unpark();
        other.join().expect("it did nothing");
    }
}
