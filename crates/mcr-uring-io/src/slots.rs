//! Send slots: the memory that a send needs until it has ended, all of it made beforehand.
//!
//! What the kernel reads (`Memory`) is apart from what we keep (`State`): from `fill` to `free` nobody touches the
//! former. The boxed slices are never grown, so addresses stay as they are.

use std::mem;

use mcr_bufpool::LocalBuffer;

use crate::cmsg::{Control, Name};
use crate::frames::{FrameId, Frames};
use crate::{INLINE_BYTES_MAX, Outgoing, PARTS_MAX, Part, SendError, SocketKey};

const NO_PART: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

struct Memory {
    header: libc::msghdr,
    parts: [libc::iovec; PARTS_MAX],
    name: Name,
    control: Control,
    inline: [u8; INLINE_BYTES_MAX],
}

#[derive(Clone)]
struct State {
    generation: u32,
    socket: SocketKey,
    token: u64,
    /// The buffers that the parts lie in, one entry per part.
    frames: [FrameId; PARTS_MAX],
    frames_len: usize,
}

pub(crate) struct SendSlots {
    memory: Box<[Memory]>,
    states: Box<[State]>,
    free: Vec<u32>,
}

impl SendSlots {
    pub(crate) fn new(sends_max: u16) -> Self {
        let state = State {
            generation: 0,
            socket: SocketKey { slot: 0, generation: 0 },
            token: 0,
            frames: [FrameId::NONE; PARTS_MAX],
            frames_len: 0,
        };
        Self {
            memory: (0..sends_max).map(|_| Memory::new()).collect(),
            states: vec![state; sends_max.into()].into_boxed_slice(),
            free: (0..u32::from(sends_max)).rev().collect(),
        }
    }

    /// Fills a free slot with the message and refers to the buffers of its parts; on error nothing has changed.
    pub(crate) fn fill(&mut self, message: &Outgoing<'_>, frames: &mut Frames) -> Result<u32, SendError> {
        check(message, frames)?;
        let slot = *self.free.last().ok_or(SendError::Full)?;
        let memory = &mut self.memory[slot as usize];
        memory.control.write(message)?;
        self.free.pop();
        let state = &mut self.states[slot as usize];
        state.socket = message.socket;
        state.token = message.token;
        state.frames_len = 0;
        memory.name.write(message.destination);
        let mut inline = 0;
        for (part, iovec) in message.parts.iter().zip(&mut memory.parts) {
            *iovec = match part {
                Part::Inline(bytes) => {
                    let copy = &mut memory.inline[inline..inline + bytes.len()];
                    copy.copy_from_slice(bytes);
                    inline += bytes.len();
                    libc::iovec { iov_base: copy.as_mut_ptr().cast(), iov_len: bytes.len() }
                }
                Part::Frame(received, range) => {
                    let (id, start) = frames.refer(received, range);
                    state.frames[state.frames_len] = id;
                    state.frames_len += 1;
                    libc::iovec { iov_base: start.cast(), iov_len: range.len() }
                }
            };
        }
        memory.point(message.parts.len());
        Ok(slot)
    }

    /// The header of a filled slot; it and all it points to stay in place until `free`.
    #[inline]
    pub(crate) fn header(&self, slot: u32) -> *const libc::msghdr {
        &raw const self.memory[slot as usize].header
    }

    #[inline]
    pub(crate) fn generation(&self, slot: u32) -> u32 {
        self.states[slot as usize].generation
    }

    #[inline]
    pub(crate) fn socket(&self, slot: u32) -> SocketKey {
        self.states[slot as usize].socket
    }

    /// Ends the slot's references; buffers that nothing else keeps go to `home`.
    #[inline]
    pub(crate) fn release(
        &mut self,
        slot: u32,
        frames: &mut Frames,
        mut home: impl FnMut(&mut Frames, LocalBuffer),
    ) {
        let state = &mut self.states[slot as usize];
        for &id in &state.frames[..mem::take(&mut state.frames_len)] {
            if let Some(buffer) = frames.end_reference(id) {
                home(frames, buffer);
            }
        }
    }

    /// Frees a released slot; the caller's token.
    #[inline]
    pub(crate) fn free(&mut self, slot: u32) -> u64 {
        let state = &mut self.states[slot as usize];
        debug_assert_eq!(state.frames_len, 0, "a slot is released before it is freed");
        state.generation = state.generation.wrapping_add(1);
        self.free.push(slot);
        state.token
    }
}

/// All that can be wrong with a message, but for the control messages.
fn check(message: &Outgoing<'_>, frames: &Frames) -> Result<(), SendError> {
    if message.parts.len() > PARTS_MAX {
        return Err(SendError::TooManyParts);
    }
    let mut inline = 0usize;
    for part in message.parts {
        match part {
            Part::Inline(bytes) => inline = inline.saturating_add(bytes.len()),
            Part::Frame(received, range) => frames.check(received, range)?,
        }
    }
    if inline > INLINE_BYTES_MAX { Err(SendError::InlineTooLong) } else { Ok(()) }
}

impl Memory {
    fn new() -> Self {
        Self {
            header: empty_header(),
            parts: [NO_PART; PARTS_MAX],
            name: Name::EMPTY,
            control: Control::EMPTY,
            inline: [0; INLINE_BYTES_MAX],
        }
    }

    /// Points the header to what was filled in.
    fn point(&mut self, parts: usize) {
        let name = self.name.as_mut_slice();
        self.header.msg_namelen = name.len() as libc::socklen_t;
        self.header.msg_name = if name.is_empty() { std::ptr::null_mut() } else { name.as_mut_ptr().cast() };
        let control = self.control.as_mut_slice();
        self.header.msg_controllen = control.len() as _;
        self.header.msg_control =
            if control.is_empty() { std::ptr::null_mut() } else { control.as_mut_ptr().cast() };
        self.header.msg_iov = self.parts.as_mut_ptr();
        self.header.msg_iovlen = parts as _;
    }
}

/// A message header that points nowhere.
pub(crate) fn empty_header() -> libc::msghdr {
    // SAFETY: msghdr is a C struct of integers and pointers; all zero is a valid value of each.
    unsafe { mem::zeroed() }
}
