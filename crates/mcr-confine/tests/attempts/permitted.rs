//! What every role may do.

use std::{
    collections::HashMap,
    io::{Read, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::sys::socket::{MsgFlags, recvmsg, sendmsg};

use crate::forbidden::Ready;

pub(crate) const ALL: &[&str] = &["nothing", "memory", "time", "hash", "channel", "close"];

/// False if it is none of these.
pub(crate) fn try_it(attempt: &str, ready: &Ready) -> bool {
    match attempt {
        "nothing" => {}
        "memory" => {
            // Small pieces grow the heap, large ones are mapped, moved and given back.
            let mut small: Vec<_> = (0..100_000u32).map(|number| Box::new([number; 16])).collect();
            small.truncate(1);
            let mut large = vec![1u8; 1 << 20];
            large.reserve(64 << 20);
            large.resize(64 << 20, 1);
            assert_eq!(large.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 64 << 20);
        }
        "time" => {
            let started = Instant::now();
            std::thread::sleep(Duration::from_millis(1));
            assert!(started.elapsed() >= Duration::from_millis(1));
        }
        // The first hash map of a process asks for random numbers.
        "hash" => assert_eq!(HashMap::from([(1, 2)])[&1], 2),
        "channel" => {
            let part = [std::io::IoSlice::new(b"x")];
            sendmsg::<()>(ready_fd(&ready.ours), &part, &[], MsgFlags::empty(), None).unwrap();
            let mut byte = [0];
            let mut part = [std::io::IoSliceMut::new(&mut byte)];
            recvmsg::<()>(ready_fd(&ready.theirs), &mut part, None, MsgFlags::empty()).unwrap();
        }
        "close" => drop(ready.spare.borrow_mut().take()),
        "linger" => linger(),
        "panic" => panic!("the last words"),
        "abort" => std::process::abort(),
        _ => return false,
    }
    true
}

fn ready_fd(socket: &impl std::os::fd::AsRawFd) -> std::os::fd::RawFd {
    socket.as_raw_fd()
}

/// Says that it is confined, and waits until nobody listens any more.
fn linger() {
    let fd = std::io::stdin();
    let part = [std::io::IoSlice::new(b"x")];
    sendmsg::<()>(ready_fd(&fd.as_fd()), &part, &[], MsgFlags::empty(), None).unwrap();
    let mut byte = [0];
    let mut part = [std::io::IoSliceMut::new(&mut byte)];
    let received = recvmsg::<()>(ready_fd(&fd.as_fd()), &mut part, None, MsgFlags::empty()).unwrap();
    assert_eq!(received.bytes, 0);
    let _ = (std::io::sink().write(b""), std::io::empty().read(&mut []));
}
