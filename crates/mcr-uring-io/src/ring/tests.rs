//! What cannot be seen from outside: refused operations, overflow, lost buffers.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, Fixed};
use io_uring::{opcode, register::Probe, squeue};

use super::*;
use crate::{Choice, Event, Part};

fn config(restricted: bool) -> IoConfig {
    IoConfig {
        backend: Choice::Uring,
        buffers: 4,
        sends_max: 8,
        files_max: 4,
        restricted,
        ..IoConfig::default()
    }
}

fn open(config: &IoConfig) -> Option<RingIo> {
    match RingIo::open(config, Frames::new(config).unwrap()) {
        Ok(ring) => Some(ring),
        Err(reason) => {
            assert!(std::env::var("MCR_REQUIRE").as_deref() != Ok("all"), "required, but {reason}");
            println!("skipped: {reason}");
            None
        }
    }
}

/// Submits one operation as it is and returns its result.
fn result_of(ring: &mut RingIo, entry: squeue::Entry) -> i32 {
    // SAFETY: the callers pass operations whose pointers are null or to statics.
    unsafe { ring.ring.submission().push(&entry) }.unwrap();
    ring.ring.submit_and_wait(1).unwrap();
    ring.ring.completion().next().unwrap().result()
}

#[test]
fn a_restricted_ring_refuses_what_we_never_do() {
    let Some(mut ring) = open(&config(true)) else { return };
    let fixed = squeue::Flags::FIXED_FILE;
    let header = empty_header();
    let forbidden = [
        opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/etc/passwd".as_ptr()).build(),
        opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/etc/passwd".as_ptr()).build().flags(fixed),
        opcode::Connect::new(Fixed(0), std::ptr::null(), 0).build(),
        opcode::Socket::new(libc::AF_INET, libc::SOCK_DGRAM, 0).build().flags(fixed),
        opcode::Nop::new().build().flags(fixed),
        // Allowed, but not on a file that was not registered.
        opcode::SendMsg::new(Fd(0), &raw const header).build(),
        // Nor with flags that would have another thread do it.
        opcode::SendMsg::new(Fixed(0), &raw const header).build().flags(fixed | squeue::Flags::ASYNC),
    ];
    for (number, entry) in forbidden.into_iter().enumerate() {
        assert_eq!(result_of(&mut ring, entry), -libc::EACCES, "operation {number}");
    }
    let submitter = ring.ring.submitter();
    let refused = [
        submitter.register_probe(&mut Probe::new()),
        submitter.register_files(&[0]),
        submitter.register_personality().map(drop),
        submitter.unregister_files(),
    ];
    for (number, result) in refused.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES), "registration {number}");
    }
}

#[test]
fn an_unrestricted_ring_does_all_that() {
    let Some(mut ring) = open(&config(false)) else { return };
    assert_eq!(result_of(&mut ring, opcode::Nop::new().build()), 0);
    assert!(ring.ring.submitter().register_probe(&mut Probe::new()).is_ok());
}

#[test]
fn completions_that_overflow_the_queue_are_not_lost() {
    let Some(mut ring) = open(&config(false)) else { return };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let destination = Some(socket.local_addr().unwrap());
    let sender = ring.add_sender(socket.try_clone().unwrap().into()).unwrap();
    let capacity = ring.ring.completion().capacity();
    for _ in 0..3 * capacity {
        assert!(ring.push(opcode::Nop::new().build(), Token::new(Operation::Cancel, 0, 0)));
    }
    let message = Outgoing { destination, ..Outgoing::new(sender, &[Part::Inline(b"still here")], 42) };
    ring.send(&message).unwrap();
    assert!(ring.ring.submission().cq_overflow());
    let mut events = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while ring.in_flight > 0 {
        assert!(Instant::now() < deadline, "{} completions never came", ring.in_flight);
        ring.wait(Some(Duration::from_millis(10)), &mut events).unwrap();
    }
    assert!(matches!(events[..], [Event::Sent { token: 42, result: Ok(10) }]));
}

#[test]
fn a_full_submission_queue_is_submitted_instead_of_losing_a_send() {
    let Some(mut ring) = open(&config(false)) else { return };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let destination = Some(socket.local_addr().unwrap());
    let sender = ring.add_sender(socket.try_clone().unwrap().into()).unwrap();
    let capacity = ring.ring.submission().capacity();
    for _ in 0..capacity {
        assert!(ring.push(opcode::Nop::new().build(), Token::new(Operation::Cancel, 0, 0)));
    }
    assert!(ring.ring.submission().is_full());
    ring.send(&Outgoing { destination, ..Outgoing::new(sender, &[Part::Inline(b"room")], 1) }).unwrap();
    let mut events = Vec::new();
    while ring.in_flight > 0 {
        ring.wait(Some(Duration::from_secs(10)), &mut events).unwrap();
    }
    assert!(matches!(events[..], [Event::Sent { token: 1, result: Ok(4) }]));
}

#[test]
#[should_panic(expected = "which the kernel was not lent")]
fn a_completion_for_a_buffer_that_was_not_lent_panics() {
    let mut lent = Lent::new(4);
    let mut frames = Frames::new(&config(false)).unwrap();
    let buffer = frames.take().unwrap();
    lent.lend(&frames, buffer);
    let _ = lent.collect(3);
}

#[test]
fn memory_is_leaked_rather_than_freed_under_an_operation_that_does_not_end() {
    let Some(mut ring) = open(&config(true)) else { return };
    // An operation that is counted and never ends, as a kernel fault would make one.
    ring.in_flight += 1;
    let address = ring.memory.frames.address(0);
    drop(ring);
    // SAFETY: the pool was leaked, so its mapping is still there, and nobody else reads or writes it.
    let byte = unsafe { address.as_ptr().read_volatile() };
    assert_eq!(byte, 0);
}
