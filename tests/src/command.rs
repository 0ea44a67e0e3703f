//! Programs that run to their end: exit code and what they said.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    thread,
};

use crate::{eventually, programs::program};

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started or does not end in time.
pub fn run(command: &mut Command) -> Ended {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    finish(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")), &format!("{command:?}"))
}

/// Waits for the end of a child whose outputs are pipes.
///
/// # Panics
/// If it does not end in time.
pub fn finish(mut child: Child, what: &str) -> Ended {
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let mut status = None;
    eventually(&format!("{what} has ended"), || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    });
    let text = |thread: Option<thread::JoinHandle<String>>| {
        thread.map(|thread| thread.join().expect("reading does not panic")).unwrap_or_default()
    };
    Ended { code: status.and_then(|status| status.code()), stdout: text(stdout), stderr: text(stderr) }
}

/// Runs `mcrctl` against the daemon at `socket`.
pub fn mcrctl(socket: &std::path::Path, args: &[&str]) -> Ended {
    run(Command::new(program("mcrctl")).arg("--socket").arg(socket).args(args))
}

impl Ended {
    /// Asserts the exit code and that what was said on standard error is one line.
    ///
    /// # Panics
    /// If it is not so.
    #[track_caller]
    pub fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "one line is expected: {self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is expected: {self:?}");
        }
    }
}

/// Reads in a thread of its own, so that a full pipe cannot keep the program from ending.
fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe is readable");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
