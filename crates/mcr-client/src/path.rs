//! Where the daemon listens.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The control socket of the daemon that this user would start: `/run/mcr/mcrd.sock` for root,
/// `$XDG_RUNTIME_DIR/mcr/mcrd.sock` for anyone else.
///
/// Where that variable is not set, or not absolute, which its specification says to ignore, the directory that systemd
/// gives every user stands in: `/run/user/UID`.
pub fn default_socket_path() -> PathBuf {
    path_for(rustix::process::geteuid().as_raw(), std::env::var_os("XDG_RUNTIME_DIR"))
}

fn path_for(uid: u32, runtime_dir: Option<OsString>) -> PathBuf {
    let runtime_dir = match runtime_dir {
        _ if uid == 0 => PathBuf::from("/run"),
        Some(dir) if Path::new(&dir).is_absolute() => dir.into(),
        _ => format!("/run/user/{uid}").into(),
    };
    runtime_dir.join("mcr/mcrd.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_the_system_socket_and_a_user_one_of_their_own() {
        assert_eq!(path_for(0, Some("/run/user/0".into())), Path::new("/run/mcr/mcrd.sock"));
        assert_eq!(path_for(1000, Some("/tmp/run".into())), Path::new("/tmp/run/mcr/mcrd.sock"));
        for unusable in [None, Some("".into()), Some("run".into())] {
            assert_eq!(path_for(1000, unusable), Path::new("/run/user/1000/mcr/mcrd.sock"));
        }
    }
}
