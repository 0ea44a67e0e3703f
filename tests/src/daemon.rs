//! One `mcrd run`, as a user would start it, with a socket of its own.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mcr_client::{Client, Options};
use mcr_lab::{Namespace, forbid};
use mcr_proto::message::WorkerState;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    PATIENCE,
    command::{self, Ended},
    eventually,
    processes::{Process, descendants},
    programs,
};

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_LINK_CREATE: u32 = 28;
/// How long a daemon may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// `--workers`.
    pub workers: u16,
    /// `--io`.
    pub io: &'static str,
    /// Contents of the configuration file.
    pub config: Option<String>,
    /// Run as this user and group instead of root.
    pub user: Option<u32>,
    /// Have `io_uring_setup` fail with this errno, as in a container that forbids it.
    pub no_uring: Option<u32>,
    /// Have `bpf` fail with this errno.
    pub no_bpf: Option<u32>,
    /// Have the kernel say of eBPF links what one says that does not know them (before Linux 6.6 that is so for tc).
    pub no_bpf_links: bool,
    /// Further arguments.
    pub arguments: Vec<String>,
}

impl Default for DaemonOptions {
    /// One worker, I/O as it comes, as root.
    fn default() -> Self {
        Self {
            workers: 1,
            io: "auto",
            config: None,
            user: None,
            no_uring: None,
            no_bpf: None,
            no_bpf_links: false,
            arguments: Vec::new(),
        }
    }
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    socket: PathBuf,
    // Holds socket, log and configuration, and the program if it had to be copied.
    directory: TempDir,
    _program: Option<TempDir>,
}

impl Daemon {
    /// Starts a daemon in a namespace and waits until all its workers run.
    ///
    /// # Panics
    /// If it does not.
    pub fn start(namespace: &Namespace, options: &DaemonOptions) -> Self {
        let directory = programs::directory_for_everyone();
        let socket = directory.path().join("run/mcrd.sock");
        Self::launch(namespace, options, directory, socket)
    }

    /// As [`Daemon::start`], at a socket of the caller's choice.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_at(namespace: &Namespace, options: &DaemonOptions, socket: &Path) -> Self {
        Self::launch(namespace, options, programs::directory_for_everyone(), socket.to_owned())
    }

    fn launch(namespace: &Namespace, options: &DaemonOptions, directory: TempDir, socket: PathBuf) -> Self {
        let (copied, program) = match options.user {
            Some(_) => {
                let (copied, program) = programs::program_for_everyone("mcrd");
                (Some(copied), program)
            }
            None => (None, programs::program("mcrd")),
        };
        let log = File::create(directory.path().join("log")).expect("the directory is ours");
        // A thread that enters the namespace ends before the daemon, which would take that for its parent's end.
        let is_forbidden = options.no_uring.is_some() || options.no_bpf.is_some() || options.no_bpf_links;
        let by_thread = options.user.is_some() || is_forbidden;
        let mut command = if by_thread { Command::new(program) } else { namespace.command(program) };
        command.args(["run", "--log", "warn", "--io", options.io, "--workers", &options.workers.to_string()]);
        command.arg("--socket").arg(&socket).args(&options.arguments);
        if let Some(config) = &options.config {
            let path = directory.path().join("mcr.toml");
            fs::write(&path, config).expect("the directory is ours");
            command.arg("--config").arg(path);
        }
        if let Some(user) = options.user {
            std::os::unix::fs::chown(directory.path(), Some(user), Some(user)).expect("root may");
            command.uid(user).gid(user);
        } else if !by_thread {
            command.arg("--with-parent");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A user without rights cannot enter the namespace any more, but can be started in it; and what a thread may not do its
        // children may not.
        let process = if by_thread {
            let links = options.no_bpf_links.then_some(libc::EINVAL.unsigned_abs());
            let forbidden = [
                (libc::SYS_io_uring_setup, None, options.no_uring),
                (libc::SYS_bpf, None, options.no_bpf),
                (libc::SYS_bpf, Some(BPF_LINK_CREATE), links),
            ];
            namespace.enter(|| {
                for (call, first_argument, errno) in forbidden {
                    let done = errno.map_or(Ok(()), |errno| forbid(call, first_argument, errno));
                    done.unwrap_or_else(|error| panic!("{error}"));
                }
                command.spawn()
            })
        } else {
            command.spawn()
        };
        let process = process.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut daemon = Self { process, socket, directory, _program: copied };
        daemon.wait_ready();
        daemon
    }

    fn wait_ready(&mut self) {
        eventually("all workers of the daemon run", || {
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("the daemon has ended: {status}");
            }
            let workers = Client::connect(&self.socket, Options::default())
                .and_then(|mut client| client.workers())
                .unwrap_or_default();
            !workers.is_empty() && workers.iter().all(|worker| worker.state == WorkerState::Running)
        });
    }

    /// A new connection to it.
    ///
    /// # Panics
    /// If there is none to be had.
    pub fn client(&self) -> Client {
        let options = Options { deadline: PATIENCE };
        Client::connect(&self.socket, options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs `mcrctl` against it.
    pub fn mcrctl(&self, args: &[&str]) -> Ended {
        command::mcrctl(&self.socket, args)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The number of the supervisor's process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The control process.
    ///
    /// # Panics
    /// If there is none.
    pub fn control(&self) -> Process {
        let workers: Vec<_> =
            self.client().workers().expect("it answers").iter().filter_map(|worker| worker.pid).collect();
        let children = descendants(self.pid());
        let control = children.into_iter().find(|child| !workers.contains(&child.pid));
        control.expect("a daemon has a control process")
    }

    /// What it has logged: warnings and errors.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The file that is its standard error.
    pub fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Stops it by SIGTERM. It must end in time with exit code 0 and leave neither process nor file.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(mut self) {
        let children = descendants(self.pid());
        assert!(!children.is_empty(), "a daemon has children");
        let started = Instant::now();
        signal(self.pid(), Signal::SIGTERM);
        let mut status = None;
        eventually("the daemon has stopped", || {
            status = self.process.try_wait().expect("it is our child");
            status.is_some()
        });
        let (status, took) = (status.expect("it has ended"), started.elapsed());
        assert!(status.success() && took < STOP_WITHIN, "{status} after {took:?}");
        assert!(!self.socket.exists(), "it left its socket");
        let alive: Vec<_> = children.iter().filter(|child| child.is_alive()).collect();
        assert!(alive.is_empty(), "it left processes: {alive:?}");
        let left = fs::read_dir(self.socket.parent().expect("it has a directory")).expect("it is there");
        let left: Vec<_> = left.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        assert!(left.is_empty(), "it left files: {left:?}");
    }

    /// Kills the supervisor alone; gives back what children it had.
    ///
    /// # Panics
    /// If it is no child of ours any more.
    pub fn kill(mut self) -> Vec<Process> {
        let children = descendants(self.pid());
        self.process.kill().expect("it is our child");
        self.process.wait().expect("it is our child");
        children
    }
}

impl Drop for Daemon {
    #[allow(clippy::print_stderr)] // A failed test must show what the daemon said.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("--- log of mcrd {}:\n{}---", self.pid(), self.log());
        }
    }
}

/// Sends a signal to a process of ours.
///
/// # Panics
/// If there is no such process.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process number"));
    kill(pid, signal).unwrap_or_else(|errno| panic!("cannot send {signal} to {pid}: {errno}"));
}
