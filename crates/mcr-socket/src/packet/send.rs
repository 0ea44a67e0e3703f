//! Frames on their way out of a packet socket, many at a time.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// How long a full send buffer is waited for.
const PATIENCE_MS: libc::c_int = 1;

/// What became of the frames queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Frames the kernel took.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Frames for which there was no room, in the send buffer or at the device.
    pub full: usize,
    /// Frames refused for another reason.
    pub errors: usize,
    /// The reason of the last of these.
    pub errno: Option<i32>,
}

/// Parts of somebody's memory in the order in which they are to be sent.
///
/// Invariant: header N points to part N, both of which stay where they are.
pub(super) struct SendQueue {
    parts: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    queued: usize,
}

impl SendQueue {
    pub(super) fn new(frames: usize) -> Self {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: an mmsghdr is integers and pointers, for all of which zero is a value: no name, no parts, no control.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let mut parts: Box<[_]> = vec![none; frames].into();
        let mut headers: Box<[_]> = vec![header; frames].into();
        for (header, part) in headers.iter_mut().zip(&mut parts) {
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        Self { parts, headers, queued: 0 }
    }

    /// How many can be queued.
    pub(super) fn capacity(&self) -> usize {
        self.parts.len()
    }

    /// How many are.
    pub(super) fn len(&self) -> usize {
        self.queued
    }

    /// Queues a frame by where it is.
    ///
    /// Panics if there is no room for more.
    #[inline]
    pub(super) fn push(&mut self, start: *mut u8, bytes: usize) {
        assert!(self.queued < self.parts.len(), "more frames queued than there are");
        self.parts[self.queued] = libc::iovec { iov_base: start.cast(), iov_len: bytes };
        self.queued += 1;
    }

    pub(super) fn clear(&mut self) {
        self.queued = 0;
    }

    /// Sends what is queued, in order, and forgets it. Waits for at most a millisecond where the send buffer is full.
    ///
    /// # Safety
    /// What was pushed since the last send or [`SendQueue::clear`] must be so many bytes that can be read, and that nothing writes to
    /// meanwhile.
    pub(super) unsafe fn send(&mut self, fd: impl AsFd) -> SendReport {
        let queued = std::mem::take(&mut self.queued);
        // SAFETY: header N points to part N (`new`), and that to bytes of which the caller says that they can be read.
        unsafe { send_all(fd.as_fd(), &mut self.headers[..queued], &self.parts[..queued]) }
    }
}

/// Sends one frame of the caller's own.
pub(super) fn send_one(fd: impl AsFd, frame: &[u8]) -> SendReport {
    let mut report = SendReport::default();
    let (fd, bytes) = (fd.as_fd().as_raw_fd(), frame.len());
    // SAFETY: pointer and length are those of one slice, which outlives the call.
    let sent = unsafe { libc::send(fd, frame.as_ptr().cast(), bytes, libc::MSG_DONTWAIT) };
    if sent >= 0 {
        (report.frames, report.bytes) = (1, bytes);
        return report;
    }
    match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
        libc::EAGAIN | libc::ENOBUFS => report.full = 1,
        errno => (report.errors, report.errno) = (1, Some(errno)),
    }
    report
}

/// Sends frames in order.
///
/// # Safety
/// Each header must point to the part of its number, and that to bytes that can be read and that nothing writes to meanwhile.
unsafe fn send_all(fd: BorrowedFd<'_>, headers: &mut [libc::mmsghdr], parts: &[libc::iovec]) -> SendReport {
    let (mut report, mut at) = (SendReport::default(), 0);
    let mut waited = false;
    while at < headers.len() {
        let messages = &mut headers[at..];
        let count = messages.len() as libc::c_uint;
        // SAFETY: `messages` is as long as we say, and each points to a part whose bytes can be read, as the caller
        // says. The kernel only reads them.
        let sent =
            unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT as _) };
        if let Ok(sent) = usize::try_from(sent) {
            report.frames += sent;
            report.bytes += parts[at..at + sent].iter().map(|part| part.iov_len).sum::<usize>();
            at += sent;
            waited = false;
            continue;
        }
        // The first of them is the one that failed.
        match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
            libc::EINTR => continue,
            libc::EAGAIN if !waited => {
                waited = true;
                wait_for_room(fd);
                continue;
            }
            libc::EAGAIN | libc::ENOBUFS => report.full += 1,
            errno => (report.errors, report.errno) = (report.errors + 1, Some(errno)),
        }
        at += 1;
    }
    report
}

fn wait_for_room(fd: BorrowedFd<'_>) {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let patience = libc::timespec { tv_sec: 0, tv_nsec: libc::c_long::from(PATIENCE_MS) * 1_000_000 };
    // SAFETY: one pollfd and one timespec that outlive the call, no signal mask. Whatever comes of it, the send is tried again.
    unsafe { libc::ppoll(&raw mut polled, 1, &raw const patience, std::ptr::null()) };
}
