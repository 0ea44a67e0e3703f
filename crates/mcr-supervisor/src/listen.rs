//! The control socket's place in the file system: one daemon at a time, and no stale file in the way of the next.
//!
//! The lock, not the socket file, says whether a daemon is there: a file may be left by a daemon that was killed, a lock
//! never is.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Seek, Write},
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::socket::{setsockopt, sockopt},
};

/// Why the control socket could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another daemon has it.
    #[error("another mcrd{} listens on {path}; stop it, or choose another socket with --socket", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Taken {
        /// The socket.
        path: PathBuf,
        /// The other daemon's process, if it says.
        pid: Option<u32>,
    },
    /// Something that is not a socket lies there.
    #[error("{path} exists and is not a socket; remove it, or choose another with --socket")]
    NotSocket {
        /// What lies there.
        path: PathBuf,
    },
    /// The name is too long for a socket.
    #[error(
        "{path}: a socket's name has at most {PATH_BYTES_MAX} bytes, this has {bytes}; choose a shorter one with --socket"
    )]
    TooLong {
        /// The name.
        path: PathBuf,
        /// Its bytes.
        bytes: usize,
    },
    /// The address for HTTP cannot be listened on.
    #[error("cannot listen on {address} for HTTP: {source}; choose another with --http")]
    Http {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file system refused.
    #[error("cannot {what} {path}: {source}{}", hint(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root, or choose a socket of your own with --socket",
        io::ErrorKind::NotFound => "; make the directory, or choose another with --socket",
        _ => "",
    }
}

/// unix(7): 108 bytes with the zero behind it.
const PATH_BYTES_MAX: usize = 107;

/// A listening control socket; its file and its lock go when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: UnixListener,
    path: PathBuf,
    lock_path: PathBuf,
    // Held to the end: the files are removed under the lock, so no other daemon's are.
    _lock: Flock<File>,
}

impl Listener {
    /// Listens at `path`, readable and writable for the owner and, if given, the group; with `others` for everybody, whom only what
    /// control lets them do holds back then.
    pub(crate) fn open(path: &Path, group: Option<u32>, others: bool) -> Result<Self, ListenError> {
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            return Err(ListenError::TooLong { path: path.into(), bytes });
        }
        make_directory(path)?;
        let lock_path = lock_path(path);
        let lock = lock(path, &lock_path)?;
        match fs::symlink_metadata(path) {
            Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                return Err(ListenError::NotSocket { path: path.into() });
            }
            Ok(_) => fs::remove_file(path).map_err(failed("remove", path))?,
            Err(_) => {}
        }
        let socket = UnixListener::bind(path).map_err(failed("listen on", path))?;
        chown(path, None, group).map_err(failed("change the group of", path))?;
        let mode = if others { 0o666 } else { 0o660 };
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(failed("change the mode of", path))?;
        Ok(Self { socket, path: path.into(), lock_path, _lock: lock })
    }

    /// Another descriptor of the socket, to hand on.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone().map(Into::into)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nothing is left to be told of a failure; the next daemon copes with what stays.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Seconds without a sign of life after which the kernel asks a client, and between further questions.
const KEEPALIVE_S: u32 = 30;

/// Listens for HTTP. Connections inherit the listener's options: whoever accepts them has no right to set any.
pub(crate) fn http(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        setsockopt(&listener, sockopt::TcpNoDelay, &true)?;
        setsockopt(&listener, sockopt::KeepAlive, &true)?;
        setsockopt(&listener, sockopt::TcpKeepIdle, &KEEPALIVE_S)?;
        setsockopt(&listener, sockopt::TcpKeepInterval, &KEEPALIVE_S)?;
        Ok(listener)
    };
    listen().map_err(|source| ListenError::Http { address, source })
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Makes the socket's own directory, not those above it: nobody but the owner may put anything there, and whoever may use the socket
/// gets to it, whatever the umask.
fn make_directory(path: &Path) -> Result<(), ListenError> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    match DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(0o755))
            .map_err(failed("change the mode of", directory)),
        Err(_) if directory.is_dir() => Ok(()),
        Err(source) => Err(ListenError::Io { what: "make the directory", path: directory.into(), source }),
    }
}

fn lock(path: &Path, lock_path: &Path) -> Result<Flock<File>, ListenError> {
    loop {
        let mut options = File::options();
        // Whoever can open it can lock it, and so keep a daemon from starting.
        let file = options.mode(0o600).create(true).read(true).write(true).truncate(false).open(lock_path);
        let file = file.map_err(failed("open", lock_path))?;
        let mut locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, _)| {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            ListenError::Taken { path: path.into(), pid }
        })?;
        // A daemon that ended between open and lock took the file with it; then this is a lock on nothing.
        let same = fs::metadata(lock_path).ok().map(|found| found.ino())
            == locked.metadata().ok().map(|own| own.ino());
        if same {
            let written = locked.set_len(0).and_then(|()| locked.rewind());
            written
                .and_then(|()| writeln!(locked, "{}", std::process::id()))
                .map_err(failed("write", lock_path))?;
            return Ok(locked);
        }
    }
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ListenError + 'a {
    move |source| ListenError::Io { what, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_has_the_socket() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mcrd.sock");
        let first = Listener::open(&path, None, false).expect("free");
        let error = Listener::open(&path, None, false).expect_err("taken");
        assert!(
            matches!(error, ListenError::Taken { pid: Some(pid), .. } if pid == std::process::id()),
            "{error}"
        );
        drop(first);
        Listener::open(&path, None, false).expect("free again");
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mcrd.sock");
        drop(UnixListener::bind(&path).expect("free"));
        drop(Listener::open(&path, None, false).expect("the stale socket is replaced"));
        fs::write(&path, "precious").expect("writable");
        assert!(matches!(Listener::open(&path, None, false), Err(ListenError::NotSocket { .. })));
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    }

    #[test]
    fn a_missing_directory_is_made_but_not_those_above_it() {
        let directory = tempfile::tempdir().expect("a directory");
        Listener::open(&directory.path().join("mcr/mcrd.sock"), None, false).expect("made");
        let error =
            Listener::open(&directory.path().join("a/b/mcrd.sock"), None, false).expect_err("too deep");
        assert!(error.to_string().contains("make the directory"), "{error}");
    }

    #[test]
    fn modes_do_not_depend_on_the_umask() {
        let directory = tempfile::tempdir().expect("a directory");
        let mode = |path: &Path| fs::metadata(path).expect("made").mode() & 0o777;
        let path = directory.path().join("mcr/mcrd.sock");
        for (others, socket) in [(false, 0o660), (true, 0o666)] {
            let listener = Listener::open(&path, None, others).expect("free");
            assert_eq!(mode(&path), socket);
            assert_eq!(mode(&directory.path().join("mcr")), 0o755);
            assert_eq!(mode(&listener.lock_path), 0o600);
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_told_with_the_most_it_may_have() {
        let path = Path::new("/tmp").join("x".repeat(108));
        let error = Listener::open(&path, None, false).expect_err("too long").to_string();
        assert!(error.contains("at most 107 bytes, this has 113"), "{error}");
    }
}
