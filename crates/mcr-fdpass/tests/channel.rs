//! Real sockets, real descriptors; what is open is counted in `/proc/self/fd`.
#![allow(clippy::unwrap_used)] // The helpers of a test are the test.

use mcr_fdpass::manifest::{MESSAGE_BYTES_MAX, encode_head};
use mcr_fdpass::{BODY_BYTES_MAX, Channel, FDS_MAX, RecvError, SendError, Tag, pair};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

/// Descriptors are counted for the whole process, so these tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// Sends bytes and descriptors as they are, with no regard for the format.
fn send_raw(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

fn message(tags: usize, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_head((0..tags).map(|tag| Tag(tag as u32)), body.len(), &mut bytes).unwrap();
    bytes.extend_from_slice(body);
    bytes
}

/// Has `send` break the rules, and asserts that the receiver ends with the descriptors it began with.
fn refused(send: impl FnOnce(BorrowedFd<'_>)) -> RecvError {
    let (near, far) = pair().unwrap();
    let far = Channel::from(far);
    let mut body = b"left from before".to_vec();
    let before = open_fds();
    send(near.as_fd());
    let error = far.recv(&mut body).expect_err("the message breaks the rules");
    assert_eq!(open_fds(), before, "every descriptor that came is closed");
    assert!(body.is_empty());
    // The channel is not harmed by one bad message.
    Channel::from(near).send(b"good", &[]).unwrap();
    far.recv(&mut body).unwrap();
    assert_eq!(body, b"good");
    error
}

#[test]
fn pipes_go_over_with_their_tags_in_order() {
    let _turn = turn();
    let (near, far) = Channel::pair().unwrap();
    let pipes: Vec<_> = (0..3).map(|_| std::io::pipe().unwrap()).collect();
    let fds: Vec<_> = pipes.iter().enumerate().map(|(i, (_, tx))| (Tag(10 + i as u32), tx.as_fd())).collect();
    near.send(b"three", &fds).unwrap();
    let mut body = Vec::new();
    let received = far.recv(&mut body).unwrap();
    assert_eq!(body, b"three");
    assert_eq!(received.fds.len(), 3);
    for (index, ((tag, fd), (mut rx, tx))) in received.fds.into_iter().zip(pipes).enumerate() {
        assert_eq!(tag, Tag(10 + index as u32));
        drop(tx);
        let mut over = File::from(fd);
        write!(over, "pipe {index}").unwrap();
        drop(over);
        let mut text = String::new();
        // Ends only when every write end is closed: the duplicate was the last.
        rx.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("pipe {index}"));
    }
}

#[test]
fn each_descriptor_is_opened_once_and_closed_once() {
    let _turn = turn();
    let (near, far) = Channel::pair().unwrap();
    let fd = null();
    let mut body = Vec::new();
    let before = open_fds();
    for round in 0..100 {
        near.send(b"", &[(Tag(1), fd.as_fd()), (Tag(2), fd.as_fd())]).unwrap();
        let mut received = far.recv(&mut body).unwrap();
        assert_eq!(open_fds(), before + 2, "round {round}");
        let taken = received.take(Tag(2)).unwrap();
        assert!(received.take(Tag(2)).is_none());
        drop(received);
        assert_eq!(open_fds(), before + 1);
        // A second close of the number just freed would hit this one, which is likely to have got it.
        let witness = null();
        drop(taken);
        assert!(rustix::io::fcntl_getfd(&witness).is_ok());
        drop(witness);
        assert_eq!(open_fds(), before);
    }
}

#[test]
fn everything_made_or_received_is_closed_on_exec() {
    let _turn = turn();
    let (near, far) = Channel::pair().unwrap();
    let fd = null();
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
    near.send(b"x", &[(Tag(0), fd.as_fd())]).unwrap();
    let received = far.recv(&mut Vec::new()).unwrap();
    for fd in [near.as_fd(), far.as_fd(), received.fds[0].1.as_fd()] {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn the_largest_message_passes_and_one_byte_more_is_refused() {
    let _turn = turn();
    let (near, far) = Channel::pair().unwrap();
    let fd = null();
    let fds = vec![(Tag(7), fd.as_fd()); FDS_MAX + 1];
    let largest = vec![0xa5; BODY_BYTES_MAX];
    near.send(&largest, &fds[..FDS_MAX]).unwrap();
    let mut body = Vec::new();
    assert_eq!(far.recv(&mut body).unwrap().fds.len(), FDS_MAX);
    assert_eq!(body, largest);

    let larger = vec![0; BODY_BYTES_MAX + 1];
    assert!(matches!(near.send(&larger, &[]), Err(SendError::TooLarge { bytes }) if bytes == larger.len()));
    assert!(matches!(near.send(b"", &fds), Err(SendError::TooManyFds { count }) if count == FDS_MAX + 1));
    far.set_nonblocking(true).unwrap();
    assert!(matches!(far.recv(&mut body), Err(RecvError::WouldBlock)));
}

#[test]
fn an_empty_body_is_a_message_and_not_the_end() {
    let _turn = turn();
    let (near, far) = Channel::pair().unwrap();
    near.send(b"", &[]).unwrap();
    drop(near);
    let mut body = vec![1, 2, 3];
    assert!(far.recv(&mut body).unwrap().fds.is_empty());
    assert!(body.is_empty());
    assert!(matches!(far.recv(&mut body), Err(RecvError::Closed)));
}

#[test]
fn a_process_at_its_descriptor_limit_reports_a_truncated_message() {
    let _turn = turn();
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let fd = null();
    let (near, far) = Channel::pair().unwrap();
    near.send(b"", &[(Tag(0), fd.as_fd()); 8]).unwrap();
    let before = open_fds();
    let old = getrlimit(Resource::Nofile);
    // Numbers in use may have gaps below the limit; whatever comes in them must be closed as well.
    setrlimit(Resource::Nofile, Rlimit { current: Some(8), maximum: old.maximum }).unwrap();
    let result = far.recv(&mut Vec::new());
    setrlimit(Resource::Nofile, old).unwrap();
    assert!(matches!(result, Err(RecvError::Truncated { got }) if got < 8), "{result:?}");
    assert_eq!(open_fds(), before);
}

#[test]
fn a_manifest_that_names_more_or_fewer_than_came_is_refused() {
    let _turn = turn();
    let fd = null();
    let surplus = refused(|to| send_raw(to, &message(2, b"b"), &[fd.as_fd(); 5]));
    assert!(matches!(surplus, RecvError::Count { want: 2, got: 5 }), "{surplus}");
    let many = refused(|to| send_raw(to, &message(3, b""), &vec![fd.as_fd(); FDS_MAX]));
    assert!(matches!(many, RecvError::Count { want: 3, got: FDS_MAX }), "{many}");
    let missing = refused(|to| send_raw(to, &message(2, b"b"), &[fd.as_fd()]));
    assert!(matches!(missing, RecvError::Count { want: 2, got: 1 }), "{missing}");
    let none = refused(|to| send_raw(to, &message(1, b"b"), &[]));
    assert!(matches!(none, RecvError::Count { want: 1, got: 0 }), "{none}");
}

#[test]
fn bytes_that_are_no_message_are_refused_with_their_descriptors() {
    let _turn = turn();
    let fd = null();
    let garbage = refused(|to| send_raw(to, b"garbage of some length", &[fd.as_fd(); 2]));
    assert!(matches!(garbage, RecvError::Manifest { got: 2, .. }), "{garbage}");
    let long = refused(|to| send_raw(to, &vec![0; MESSAGE_BYTES_MAX + 1], &[fd.as_fd(); 2]));
    assert!(matches!(long, RecvError::TooLong { got: 2 }), "{long}");
}

#[test]
fn a_full_socket_would_block_and_sends_again_once_read() {
    let _turn = turn();
    let (near, far) = Channel::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let body = vec![0; 32 * 1024];
    let sent = (0..1000).take_while(|_| near.send(&body, &[]).is_ok()).count();
    assert!((1..1000).contains(&sent));
    assert!(matches!(near.send(&body, &[]), Err(SendError::WouldBlock)));
    let mut got = Vec::new();
    far.recv(&mut got).unwrap();
    near.send(&body, &[]).unwrap();
}

#[test]
fn a_dead_peer_is_gone_for_the_sender_and_closed_for_the_receiver() {
    let _turn = turn();
    let (near, far) = Channel::pair().unwrap();
    drop(far);
    assert!(matches!(near.send(b"x", &[]), Err(SendError::PeerGone)));
    assert!(matches!(near.recv(&mut Vec::new()), Err(RecvError::Closed)));
}

#[test]
fn the_last_words_of_a_peer_that_left_mail_unread_are_received() {
    let _turn = turn();
    let (near, far) = Channel::pair().unwrap();
    let fd = null();
    near.send(b"never read", &[(Tag(0), fd.as_fd())]).unwrap();
    far.send(b"last words", &[(Tag(1), fd.as_fd())]).unwrap();
    drop(far);
    let mut body = Vec::new();
    assert_eq!(near.recv(&mut body).unwrap().fds.len(), 1);
    assert_eq!(body, b"last words");
    assert!(matches!(near.recv(&mut body), Err(RecvError::Closed)));
}

#[test]
fn a_stream_socket_gives_an_error_and_not_a_wrong_message() {
    let _turn = turn();
    let (near, far) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let near = Channel::from(near);
    near.send(b"one", &[]).unwrap();
    near.send(b"two", &[]).unwrap();
    let error = Channel::from(far).recv(&mut Vec::new()).unwrap_err();
    assert!(matches!(error, RecvError::Manifest { .. }), "{error}");
}
