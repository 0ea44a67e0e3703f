//! Frames through one packet socket, many at a time and in place: received into slots, changed there, sent from there.
//!
//! A frame comes out of here as it was on the wire: a VLAN tag that the driver or the kernel took out is put back. What the kernel
//! merged stays merged and is cut off at the room of a slot; its length is told.
//!
//! Invariants: the headers point into the slots of the same value, whose memory neither moves nor grows; a slot is either the
//! caller's (after a receive) or queued, and all are free again after a send or the next receive.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::AuxData;
use crate::cmsg;

/// The room in front of a frame that a tag is put back into.
const TAG_BYTES: usize = 4;
/// An auxdata and a time stamp, each with its header, on any architecture.
const CONTROL_BYTES: usize = 96;
/// Addresses, behind which a tag goes.
const ADDRESSES_BYTES: usize = 12;
/// 802.1Q, if the kernel does not say.
const TPID: u16 = 0x8100;
/// How long a full send buffer is waited for.
const PATIENCE_MS: libc::c_int = 1;

/// What is known of a frame besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameInfo {
    /// Bytes there, the tag included.
    pub bytes: usize,
    /// Bytes there were; more than `bytes` if the slot was too small.
    pub wire_bytes: usize,
    /// When it arrived, in nanoseconds since 1970, if the socket was opened with time stamps.
    pub received_ns: Option<u64>,
    /// The transport checksum is only that of the pseudo header.
    pub checksum_not_ready: bool,
}

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

/// Slots for a batch of frames.
pub struct FrameBatch {
    memory: Box<[u8]>,
    slot_bytes: usize,
    controls: Box<[[u64; CONTROL_BYTES / 8]]>,
    parts: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    send_parts: Box<[libc::iovec]>,
    send_headers: Box<[libc::mmsghdr]>,
    /// Where each frame begins in its slot: 0 with a tag put back, 4 without.
    starts: Box<[u8]>,
    infos: Box<[FrameInfo]>,
    received: usize,
    queued: usize,
}

impl std::fmt::Debug for FrameBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { slot_bytes, received, queued, .. } = self;
        write!(
            f,
            "FrameBatch({} slots of {slot_bytes} bytes, {received} received, {queued} queued)",
            self.parts.len()
        )
    }
}

impl FrameBatch {
    /// Slots for `frames` frames of at most `room_bytes` with their tags.
    ///
    /// Panics if there are none, or more than `sendmmsg(2)` takes (1,024).
    pub fn new(frames: usize, room_bytes: usize) -> Self {
        assert!((1..=1024).contains(&frames), "a batch of {frames} frames");
        // Slots begin at cache lines; the last bytes of one are the headroom of no other.
        let slot_bytes = (TAG_BYTES + room_bytes).next_multiple_of(64);
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: an mmsghdr is integers and pointers, for all of which zero is a value: no name, no parts, no control.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let mut batch = Self {
            memory: vec![0; slot_bytes * frames].into(),
            slot_bytes,
            controls: vec![[0; CONTROL_BYTES / 8]; frames].into(),
            parts: vec![none; frames].into(),
            headers: vec![header; frames].into(),
            send_parts: vec![none; frames].into(),
            send_headers: vec![header; frames].into(),
            starts: vec![0; frames].into(),
            infos: vec![FrameInfo::default(); frames].into(),
            received: 0,
            queued: 0,
        };
        batch.point();
        batch
    }

    /// Points the headers to their slots, once: what they point to stays where it is.
    fn point(&mut self) {
        let base = self.memory.as_mut_ptr();
        for (at, part) in self.parts.iter_mut().enumerate() {
            // Within the memory: slots are `slot_bytes` long and there are as many as parts.
            part.iov_base = base.wrapping_add(at * self.slot_bytes + TAG_BYTES).cast();
            part.iov_len = self.slot_bytes - TAG_BYTES;
        }
        for ((header, part), control) in self.headers.iter_mut().zip(&mut self.parts).zip(&mut self.controls)
        {
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        for (header, part) in self.send_headers.iter_mut().zip(&mut self.send_parts) {
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
    }

    /// Receives what is there, at most a batch; 0 if nothing is. Frames of before are gone, those queued and not sent included.
    ///
    /// # Errors
    /// Those of `recvmmsg(2)`, but for EAGAIN and EINTR.
    pub fn receive(&mut self, fd: impl AsFd) -> io::Result<usize> {
        for header in &mut self.headers[..self.received] {
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            header.msg_hdr.msg_flags = 0;
        }
        (self.received, self.queued) = (0, 0);
        let (fd, no_timeout) = (fd.as_fd().as_raw_fd(), std::ptr::null_mut());
        let count = self.headers.len() as libc::c_uint;
        // SAFETY: `headers` is as long as we say, and each points to a part and a control buffer of this value, whose sizes it
        // has (`point`); nothing else borrows them during the call.
        let got = unsafe {
            libc::recvmmsg(fd, self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _, no_timeout)
        };
        let Ok(got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            let nothing = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR));
            return if nothing { Ok(0) } else { Err(error) };
        };
        self.received = got;
        for at in 0..got {
            self.note(at);
        }
        Ok(got)
    }

    /// Reads what the kernel said of a frame and puts its tag back.
    fn note(&mut self, at: usize) {
        let header = &self.headers[at];
        // 32 bits wide in some C libraries.
        #[allow(clippy::unnecessary_cast)]
        let control_bytes = (header.msg_hdr.msg_controllen as usize).min(CONTROL_BYTES);
        let mut words = [0; CONTROL_BYTES];
        for (to, word) in words.chunks_exact_mut(8).zip(&self.controls[at]) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        let control = &words[..control_bytes];
        let aux = AuxData::parse(control);
        let mut bytes = (header.msg_len as usize).min(self.slot_bytes - TAG_BYTES);
        let mut wire_bytes = aux.map_or(bytes, |aux| aux.frame_bytes as usize).max(bytes);
        self.starts[at] = TAG_BYTES as u8;
        if let Some((aux, tci)) = aux.and_then(|aux| Some((aux, aux.vlan_tci()?)))
            && bytes >= ADDRESSES_BYTES
        {
            let slot = &mut self.memory[at * self.slot_bytes..][..self.slot_bytes];
            slot.copy_within(TAG_BYTES..TAG_BYTES + ADDRESSES_BYTES, 0);
            let tag = &mut slot[ADDRESSES_BYTES..ADDRESSES_BYTES + TAG_BYTES];
            tag[..2].copy_from_slice(&aux.vlan_tpid().unwrap_or(TPID).to_be_bytes());
            tag[2..].copy_from_slice(&tci.to_be_bytes());
            self.starts[at] = 0;
            (bytes, wire_bytes) = (bytes + TAG_BYTES, wire_bytes + TAG_BYTES);
        }
        self.infos[at] = FrameInfo {
            bytes,
            wire_bytes,
            received_ns: received_ns(control),
            checksum_not_ready: aux.is_some_and(|aux| aux.checksum_not_ready()),
        };
    }

    /// A received frame: the room from its first byte on, of which the first `bytes` are the frame.
    ///
    /// Panics if so many were not received.
    #[inline]
    pub fn frame(&mut self, at: usize) -> (&mut [u8], FrameInfo) {
        assert!(at < self.received, "frame {at} of {}", self.received);
        let slot = &mut self.memory[at * self.slot_bytes..][..self.slot_bytes];
        (&mut slot[usize::from(self.starts[at])..], self.infos[at])
    }

    /// Queues the first `bytes` of a received frame's room, each frame once at most.
    ///
    /// Panics if so many were not received, or do not fit the slot.
    #[inline]
    pub fn queue(&mut self, at: usize, bytes: usize) {
        assert!(self.queued < self.send_parts.len(), "more frames queued than there are");
        let room = self.frame(at).0;
        let iov_base = room[..bytes].as_mut_ptr().cast();
        self.send_parts[self.queued] = libc::iovec { iov_base, iov_len: bytes };
        self.queued += 1;
    }

    /// Sends what is queued, in order. Waits for at most a millisecond where the send buffer is full.
    pub fn send(&mut self, fd: impl AsFd) -> SendReport {
        let queued = std::mem::take(&mut self.queued);
        send_all(fd.as_fd(), &mut self.send_headers[..queued], &self.send_parts[..queued])
    }

    /// Sends one frame of the caller's own.
    pub fn send_one(fd: impl AsFd, frame: &[u8]) -> SendReport {
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
}

/// Sends frames in order; each header points to the part of its number, and that to bytes that nothing borrows.
pub(super) fn send_all(
    fd: BorrowedFd<'_>,
    headers: &mut [libc::mmsghdr],
    parts: &[libc::iovec],
) -> SendReport {
    let (mut report, mut at) = (SendReport::default(), 0);
    let mut waited = false;
    while at < headers.len() {
        let messages = &mut headers[at..];
        let count = messages.len() as libc::c_uint;
        // SAFETY: `messages` is as long as we say, and each points to a part whose bytes nothing borrows during the call, as the callers
        // say. The kernel only reads them.
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

/// SCM_TIMESTAMPNS: a timespec.
fn received_ns(control: &[u8]) -> Option<u64> {
    let (_, _, data) = cmsg::messages(control)
        .find(|(level, kind, _)| (*level, *kind) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS))?;
    let word = |at: usize| data.get(at..)?.first_chunk().map(|eight| i64::from_ne_bytes(*eight));
    // A timespec's members are eight bytes each on the 64-bit architectures this runs on; another is not read.
    let (seconds, nanoseconds) = (word(0)?, word(8)?);
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(u64::try_from(nanoseconds).ok()?)
}
