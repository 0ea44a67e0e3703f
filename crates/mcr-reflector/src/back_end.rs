//! What a way to get and send frames is. AF_PACKET is one; AF_XDP is another; BPF devices of other systems could be.

use std::{io, os::fd::BorrowedFd};

use mcr_reflect::Meta;

/// Frames of one batch at most.
pub const BATCH_FRAMES: usize = 64;

/// What became of the frames of a batch that were to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames that the kernel or NIC took.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames for which there was no room.
    pub full: u64,
    /// Frames refused for another reason.
    pub errors: u64,
    /// The last such reason.
    pub errno: Option<i32>,
}

/// A socket's frames, in batches. One batch is under way at a time: each of its frames is queued once or given up, then the
/// batch is flushed.
pub trait BackEnd {
    /// Takes the frames that are there, at most [`BATCH_FRAMES`]; 0 if none is. Never waits.
    ///
    /// # Errors
    /// The kernel's. It may be called again: an interface that is down comes up again.
    fn receive(&mut self) -> io::Result<usize>;

    /// A frame of the batch: its room, of which the first bytes are the frame with its tags; how many; what is known of it.
    fn frame(&mut self, index: usize) -> (&mut [u8], usize, Meta);

    /// Queues the first `bytes` of a frame's room to be sent.
    fn queue(&mut self, index: usize, bytes: usize);

    /// Sends what was queued and lets go of the batch.
    fn flush(&mut self) -> Sent;

    /// Sends one frame that waited elsewhere.
    fn send_one(&mut self, frame: &[u8]) -> Sent;

    /// What to wait on for frames.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Descriptors that came from the kernel and cannot be right, since this was last asked.
    fn take_invalid(&mut self) -> u64 {
        0
    }
}
