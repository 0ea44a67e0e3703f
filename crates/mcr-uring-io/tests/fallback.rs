//! What `open` makes of a config and of a kernel that does not offer all that is needed.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test that cannot go on says where.

mod common;

use common::{NAME_V4, Pump, sink, small};
use mcr_uring_io::{Backend, Choice, Io, IoConfig, OpenError};

#[test]
fn configs_that_cannot_be_are_refused() {
    for buffers in [0, 3, 100, 65_535] {
        let config = IoConfig { buffers, ..small(Choice::Auto) };
        assert!(matches!(Io::open(&config), Err(OpenError::Buffers { buffers: b }) if b == buffers));
    }
    let zeroes = [
        ("buffer_bytes", IoConfig { buffer_bytes: 0, ..small(Choice::Auto) }),
        ("sends_max", IoConfig { sends_max: 0, ..small(Choice::Auto) }),
        ("files_max", IoConfig { files_max: 0, ..small(Choice::Auto) }),
        ("events_max", IoConfig { events_max: 0, ..small(Choice::Auto) }),
    ];
    for (name, config) in zeroes {
        assert!(matches!(Io::open(&config), Err(OpenError::Zero { field }) if field == name));
    }
    assert!(matches!(
        Io::open(&IoConfig { buffer_bytes: u32::MAX, ..small(Choice::Auto) }),
        Err(OpenError::TooLarge)
    ));
}

#[test]
fn the_back_end_chosen_is_the_one_in_use() {
    let io = Io::open(&small(Choice::Syscalls)).unwrap();
    assert_eq!((io.backend(), io.fallback_reason().is_none()), (Backend::Syscalls, true));
    if common::has_uring() {
        for choice in [Choice::Auto, Choice::Uring] {
            let io = Io::open(&small(choice)).unwrap();
            assert_eq!((io.backend(), io.fallback_reason().is_none()), (Backend::Uring, true));
        }
    }
}

#[test]
fn without_io_uring_auto_falls_back_and_says_why() {
    // The kernel refuses a file table larger than the limit of open files, which stands for any other refusal here.
    let limit = libc::rlimit { rlim_cur: 512, rlim_max: 512 };
    // SAFETY: the limit is read during the call and lives until its end.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let config = IoConfig { files_max: 513, ..small(Choice::Auto) };
    let error = Io::open(&IoConfig { backend: Choice::Uring, ..config.clone() }).unwrap_err();
    assert!(matches!(error, OpenError::Uring(_)), "{error}");

    let mut pump = Pump::with(&config);
    assert_eq!(pump.io.backend(), Backend::Syscalls);
    assert!(!pump.io.fallback_reason().unwrap().to_string().is_empty());
    let (_, address) = pump.receiver(NAME_V4);
    let (source, _) = sink();
    source.send_to(b"all the same", address).unwrap();
    pump.until("the datagram", |pump| pump.received.len() == 1);
}
