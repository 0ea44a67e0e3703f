//! What the tester receives: a packet socket's ring (TPACKET_V2, packet(7)), read where the kernel has written it, for a tester that
//! took a system call and a copy for each frame would be slower than what it tests.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU32, Ordering},
};

use mcr_lab::Namespace;
use mcr_socket::{
    filter::Filter,
    packet::{self, PacketOptions, RingShape},
};

/// struct tpacket2_hdr of linux/if_packet.h: status, length, captured length, offset of the frame.
const CAPTURED_AT: usize = 8;
const FRAME_AT: usize = 12;
const TP_STATUS_USER: u32 = 1;
/// What the kernel puts into a slot before a frame, at most.
const OVERHEAD_BYTES: usize = 160;
const BLOCK_BYTES: u32 = 64 << 10;
/// A burst of 2,000 long frames fits several times.
const BLOCKS: u32 = 256;

/// A socket that has every frame an interface receives, and its ring.
#[derive(Debug)]
pub(super) struct Ring {
    memory: NonNull<u8>,
    socket: OwnedFd,
    shape: RingShape,
    next: u32,
}

impl Ring {
    /// With slots for frames of this length.
    pub(super) fn open(namespace: &Namespace, ifindex: u32, frame_bytes: usize) -> anyhow::Result<Self> {
        let slot_bytes = (frame_bytes + OVERHEAD_BYTES).next_multiple_of(64) as u32;
        let shape = RingShape { block_bytes: BLOCK_BYTES, blocks: BLOCKS, slot_bytes };
        // BPF_RET | BPF_K of everything.
        let filter = Filter::from_instructions([(0x06, 0, 0, u32::MAX)]);
        let options = PacketOptions {
            ifindex,
            vnet_hdr: false,
            receive_buffer_bytes: 0,
            ring: Some(shape),
            filter: &filter,
        };
        let socket = namespace.try_enter(|| packet::open(&options))??;
        let memory = map(&socket, bytes(shape))?;
        Ok(Self { memory, socket, shape, next: 0 })
    }

    /// Calls `each` with the frames that are there, `frames_max` at most; how many.
    pub(super) fn take(&mut self, frames_max: usize, mut each: impl FnMut(&[u8])) -> usize {
        for taken in 0..frames_max {
            let slot = self.slot();
            // SAFETY: `slot` is the beginning of one of the mapping's slots, which are aligned to 64 bytes; a slot's status is its
            // first four, and both sides access it as one word.
            let status = unsafe { AtomicU32::from_ptr(slot.cast().as_ptr()) };
            // Acquire: what the kernel wrote before the status is seen from here on.
            if status.load(Ordering::Acquire) & TP_STATUS_USER == 0 {
                return taken;
            }
            let slot_bytes = self.shape.slot_bytes as usize;
            // SAFETY: the slot is `slot_bytes` long and within the mapping, which lives as long as `self`; with the status that was
            // read the kernel leaves it alone until it is given back below, and this is the only reader.
            let bytes = unsafe { slice::from_raw_parts(slot.as_ptr(), slot_bytes) };
            each(frame(bytes).unwrap_or_default());
            // Release: the kernel may write as soon as it sees this, and everything read must have been read by then.
            status.store(0, Ordering::Release);
            self.next = (self.next + 1) % self.shape.slots();
        }
        frames_max
    }

    /// Frames for which there was no room, since this was last asked.
    pub(super) fn take_dropped(&self) -> io::Result<u64> {
        packet::take_statistics(&self.socket).map(|statistics| statistics.dropped.into())
    }

    fn slot(&self) -> NonNull<u8> {
        let in_block = self.shape.block_bytes / self.shape.slot_bytes;
        let at = self.next / in_block * self.shape.block_bytes + self.next % in_block * self.shape.slot_bytes;
        assert!((at + self.shape.slot_bytes) as usize <= bytes(self.shape), "a slot within the mapping");
        // SAFETY: as asserted, `at` is within the one mapping that `memory` is the beginning of.
        unsafe { self.memory.add(at as usize) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: address and length are those of `map`, and nothing borrows from the mapping when `self` is dropped.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), bytes(self.shape)) };
    }
}

/// The frame in a slot.
fn frame(slot: &[u8]) -> Option<&[u8]> {
    let captured = u32::from_ne_bytes(*slot.get(CAPTURED_AT..)?.first_chunk()?) as usize;
    let at = usize::from(u16::from_ne_bytes(*slot.get(FRAME_AT..)?.first_chunk()?));
    slot.get(at..)?.get(..captured)
}

fn bytes(shape: RingShape) -> usize {
    shape.block_bytes as usize * shape.blocks as usize
}

fn map(socket: &OwnedFd, bytes: usize) -> io::Result<NonNull<u8>> {
    let fd = socket.as_fd().as_raw_fd();
    let (rights, how) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
    let memory = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, how, fd, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys;

    #[test]
    fn frames_of_all_slots_come_out_whole_and_in_order() {
        let Some(()) = mcr_lab::require::netns() else { return };
        let line = mcr_lab::Line::new().unwrap();
        let index = |namespace: &Namespace, name| namespace.link_index(name).unwrap();
        let mut ring = Ring::open(&line.relay, index(&line.relay, "in0"), 1514).unwrap();
        let source = index(&line.source, "src0");
        let sender = line.source.enter(|| sys::packet_sender(source)).unwrap();
        let count = u64::from(ring.shape.slots()) * 2 + 7;
        let mut next = 0_u64;
        for number in 0..count {
            let mut sent = vec![number as u8; 1514];
            // No protocol that a stack would answer.
            sent[12..14].copy_from_slice(&[0x88, 0xb5]);
            sent[14..22].copy_from_slice(&number.to_be_bytes());
            nix::sys::socket::send(sender.as_raw_fd(), &sent, nix::sys::socket::MsgFlags::empty()).unwrap();
            mcr_lab::wait_until(Duration::from_secs(5), "a frame comes", || {
                ring.take(1, |frame| {
                    if frame[12..14] == [0x88, 0xb5] {
                        assert_eq!(frame, sent);
                        next += 1;
                    }
                });
                next == number + 1
            })
            .unwrap();
        }
        assert_eq!(ring.take_dropped().unwrap(), 0);
    }
}
