//! Control with nobody around it but the test.

use std::{
    fs::File,
    io::Write,
    os::{fd::AsFd, unix::net::UnixListener},
    thread::{self, JoinHandle},
    time::Instant,
};

use mcr_fdpass::{Channel, Tag};
use mcr_proto::{
    codec,
    message::{FromControl, LogLevel, ToControl, tag},
};

use super::stage::{PATIENCE, receive, send};
use crate::{ControlError, run};

/// Control without a supervisor of its own, so that the test sees what is said to it.
pub(crate) struct Bare {
    pub(crate) channel: Channel,
    control: JoinHandle<Result<(), ControlError>>,
    pub(crate) directory: tempfile::TempDir,
}

impl Bare {
    pub(crate) fn new() -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        let control = thread::spawn(move || run(theirs.into()));
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let start = ToControl::Start {
            segments: 0,
            owner_uid: 0,
            group_gid: None,
            others_may_read: false,
            http: None,
            ids: None,
        };
        ours.send(&codec::encode(&start).unwrap(), &[(Tag(tag::LISTENER), listener.as_fd())]).unwrap();
        assert_eq!(receive(&ours), Some(FromControl::Ready));
        Self { channel: ours, control, directory }
    }

    /// Hands over a configuration file.
    pub(crate) fn reload(&self, text: &str) {
        let path = self.directory.path().join("mcr.toml");
        File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let file = File::open(&path).unwrap();
        let body = codec::encode(&ToControl::Reload { file: "mcr.toml".into() }).unwrap();
        self.channel.send(&body, &[(Tag(tag::CONFIG), file.as_fd())]).unwrap();
    }

    pub(crate) fn log(&self) -> (LogLevel, String) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(FromControl::Log { level, text }) = receive(&self.channel) {
                return (level, text);
            }
        }
        panic!("nothing was logged");
    }

    pub(crate) fn stop(self) {
        send(&self.channel, &ToControl::Stop);
        self.control.join().unwrap().unwrap();
    }
}
