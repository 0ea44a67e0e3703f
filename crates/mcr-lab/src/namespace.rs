//! Network namespaces, held by a descriptor.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use mcr_netlink::Route;
use netlink_packet_route::RouteNetlinkMessage;
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::LabError;

/// A network namespace, kept alive by a descriptor. A clone is the same namespace.
///
/// Everything but [`Namespace::current`] needs CAP_SYS_ADMIN in the user namespace that owns it.
#[derive(Debug, Clone)]
pub struct Namespace {
    fd: Arc<OwnedFd>,
    /// A netlink socket belongs to the namespace it was opened in, so requests need no thread of their own.
    requests: Arc<Mutex<Route>>,
}

impl Namespace {
    /// Makes a new namespace with nothing in it but `lo`, which is brought up.
    pub fn new() -> Result<Self, LabError> {
        let made = on_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed("unshare", e.into()))?;
            Self::current()
        })?;
        let namespace = made?;
        namespace.set_up("lo")?;
        Ok(namespace)
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, LabError> {
        let file =
            File::open("/proc/thread-self/ns/net").map_err(|e| failed("open /proc/thread-self/ns/net", e))?;
        let requests = Route::open().map_err(|e| failed("open a netlink socket", e))?;
        Ok(Self { fd: Arc::new(file.into()), requests: Arc::new(Mutex::new(requests)) })
    }

    /// The descriptor that names and holds the namespace.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Runs `f` inside the namespace, on a thread of its own, and waits for it. Sockets that `f` opens stay in
    /// the namespace after they are returned. A panic of `f` goes on in the caller.
    ///
    /// # Panics
    /// If the namespace cannot be entered; see [`Namespace::try_enter`].
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        match self.try_enter(f) {
            Ok(value) => value,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`Namespace::enter`], with an error instead of a panic if the namespace cannot be entered.
    pub fn try_enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        on_new_thread(|| {
            setns(&*self.fd, CloneFlags::CLONE_NEWNET).map_err(|e| failed("enter it", e.into()))?;
            Ok(f())
        })?
    }

    /// Starts `f` on a thread inside the namespace. If the namespace cannot be entered, the thread panics, and
    /// `join` says so.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let fd = Arc::clone(&self.fd);
        thread::spawn(move || {
            if let Err(errno) = setns(&*fd, CloneFlags::CLONE_NEWNET) {
                panic!("{}", failed("enter it", errno.into()));
            }
            f()
        })
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        crate::child::command(Arc::clone(&self.fd), program.as_ref())
    }

    /// Writes a sysctl of the namespace, e.g. `sysctl("net.ipv4.conf.all.rp_filter", "0")`. A dot inside an
    /// interface name is written as a slash, as sysctl(8) does.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = sysctl_path(key);
        self.try_enter(|| fs::write(path, value))?
            .map_err(|source| LabError::Sysctl { key: key.to_owned(), source })
    }

    /// Reads a sysctl of the namespace, without the trailing newline.
    pub fn read_sysctl(&self, key: &str) -> Result<String, LabError> {
        let path = sysctl_path(key);
        let text = self
            .try_enter(|| fs::read_to_string(path))?
            .map_err(|source| LabError::Sysctl { key: key.to_owned(), source })?;
        Ok(text.trim_end().to_owned())
    }

    /// Makes IPv6 quiet on links that are made from now on: no duplicate address detection, so addresses are
    /// usable at once, and no router solicitations, so a counter sees only the traffic of the test. Does
    /// nothing where the kernel has no IPv6.
    pub fn quiet_ipv6(&self) -> Result<(), LabError> {
        for key in ["accept_dad", "router_solicitations", "accept_ra"] {
            for scope in ["all", "default"] {
                match self.sysctl(&format!("net.ipv6.conf.{scope}.{key}"), "0") {
                    Err(LabError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                        return Ok(());
                    }
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Sends a netlink request with `flags` beside REQUEST and ACK; gives what came before the acknowledgement. `what` completes the
    /// sentence "cannot ...".
    pub(crate) fn request(
        &self,
        what: impl FnOnce() -> String,
        flags: u16,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, LabError> {
        // A panic of another test thread in the middle of a request is no reason to stop: answers are matched by sequence number.
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.send(flags, message).map_err(|source| match source.raw_os_error() {
            Some(_) => LabError::Request { what: what(), source },
            None => LabError::Answer { what: what(), reason: source.to_string() },
        })
    }
}

/// Namespaces belong to threads, so every change of one happens on a thread made for it.
fn on_new_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("mcr-lab".to_owned())
            .spawn_scoped(scope, f)
            .map_err(|e| failed("start a thread", e))?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => resume_unwind(panic),
        }
    })
}

fn sysctl_path(key: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    format!("/proc/sys/{}", key.chars().map(swap).collect::<String>())
}

fn failed(step: &'static str, source: io::Error) -> LabError {
    LabError::Namespace { step, source }
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn a_dot_in_an_interface_name_survives_in_a_sysctl_path() {
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/5.rp_filter"), "/proc/sys/net/ipv4/conf/eth0.5/rp_filter");
    }
}
