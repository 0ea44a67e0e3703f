//! An ordinary user makes a network: a test without harness, for the process must have a single thread.

use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use mcr_lab::{LabError, Line, enter_user_namespace, require};

const CHILD: &str = "MCR_LAB_USER_NAMESPACE_CHILD";
/// The exit code with which the child says that user namespaces are forbidden.
const FORBIDDEN: u8 = 77;
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    if std::env::var_os(CHILD).is_some() { child() } else { parent() }
}

/// Starts this program again as an ordinary user, if it may choose.
fn parent() -> ExitCode {
    let mut command = Command::new("/proc/self/exe");
    command.env(CHILD, "1");
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) if status.code() == Some(i32::from(FORBIDDEN)) => {
            require::skip::<()>("user namespaces are forbidden here");
            ExitCode::SUCCESS
        }
        other => panic!("the child failed: {other:?}"),
    }
}

fn child() -> ExitCode {
    match enter_user_namespace() {
        Ok(()) => {}
        Err(LabError::UserNamespaceForbidden { .. }) => return FORBIDDEN.into(),
        Err(other) => panic!("{other}"),
    }
    let line = Line::new().expect("a line");
    let relay = line.relay.enter(|| UdpSocket::bind("10.1.0.2:5000")).expect("relay socket");
    relay.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let source = line.source.enter(|| UdpSocket::bind("10.1.0.1:0")).expect("source socket");
    source.send_to(b"x", "10.1.0.2:5000").expect("send");
    relay.recv(&mut [0; 8]).expect("receive");
    ExitCode::SUCCESS
}
