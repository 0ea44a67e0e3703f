//! Frames through one packet socket, many at a time and in place: received into slots, changed there, sent from there.
//!
//! A frame comes out of here as it was on the wire: a VLAN tag that the driver or the kernel took out is put back. What the kernel
//! merged stays merged and is cut off at the room of a slot; its length is told.
//!
//! Invariants: the headers point into the slots of the same value, whose memory neither moves nor grows; a slot is either the
//! caller's (after a receive) or queued, and all are free again after a send or the next receive.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::AuxData;
use super::send::{SendQueue, SendReport};
use super::tag::{ADDRESSES_BYTES, TAG_BYTES, put_tag_back};
use crate::cmsg;

/// An auxdata and a time stamp, each with its header, on any architecture.
const CONTROL_BYTES: usize = 96;
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

/// Slots for a batch of frames.
pub struct FrameBatch {
    memory: Box<[u8]>,
    slot_bytes: usize,
    controls: Box<[[u64; CONTROL_BYTES / 8]]>,
    parts: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    queue: SendQueue,
    /// Where each frame begins in its slot: 0 with a tag put back, 4 without.
    starts: Box<[u8]>,
    infos: Box<[FrameInfo]>,
    received: usize,
}

impl std::fmt::Debug for FrameBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { slot_bytes, received, queue, parts, .. } = self;
        let (slots, queued) = (parts.len(), queue.len());
        write!(f, "FrameBatch({slots} slots of {slot_bytes} bytes, {received} received, {queued} queued)")
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
            queue: SendQueue::new(frames),
            starts: vec![0; frames].into(),
            infos: vec![FrameInfo::default(); frames].into(),
            received: 0,
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
        self.received = 0;
        self.queue.clear();
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
            put_tag_back(slot, TAG_BYTES, aux.vlan_tpid(), tci);
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
        let frame = &mut self.frame(at).0[..bytes];
        let (start, bytes) = (frame.as_mut_ptr(), frame.len());
        self.queue.push(start, bytes);
    }

    /// Sends what is queued, in order. Waits for at most a millisecond where the send buffer is full.
    pub fn send(&mut self, fd: impl AsFd) -> SendReport {
        // SAFETY: what is queued are bytes of `memory`, which is of this value and which `&mut self` keeps others from meanwhile.
        unsafe { self.queue.send(fd) }
    }

    /// Sends one frame of the caller's own.
    pub fn send_one(fd: impl AsFd, frame: &[u8]) -> SendReport {
        super::send::send_one(fd, frame)
    }
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
