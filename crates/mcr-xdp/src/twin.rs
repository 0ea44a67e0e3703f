//! The kernel's side of the rings, in memory of this process: for tests of what is built on [`Rings`], without rights or an interface.
//!
//! ```
//! use mcr_xdp::{Shape, twin};
//!
//! let (mut rings, mut kernel) = twin::pair(Shape::with_entries(64))?;
//! kernel.deliver(b"ping");
//! let mut frames = Vec::new();
//! rings.receive(&mut frames, 16);
//! for mut frame in frames {
//!     rings.bytes_mut(&mut frame)[1] = b'o';
//!     rings.send(frame).expect("there is room");
//! }
//! rings.submit();
//! assert_eq!(kernel.transmit().as_deref(), Some(&b"pong"[..]));
//! # Ok::<(), mcr_xdp::OpenError>(())
//! ```

use std::collections::VecDeque;
use std::ptr;
use std::sync::Arc;

use crate::error::OpenError;
use crate::map::Map;
use crate::ring::{Consumer, Descriptor, Offsets, Producer, Ring};
use crate::rings::{Ends, Rings};
use crate::shape::{HEADROOM_BYTES, Shape};

/// The kernel's side: it takes frames out of the fill ring, delivers into the receive ring, sends from the transmit ring, and
/// completes.
#[derive(Debug)]
pub struct Kernel {
    shape: Shape,
    memory: Arc<Map>,
    receive: Producer<Descriptor>,
    transmit: Consumer<Descriptor>,
    fill: Consumer<u64>,
    completion: Producer<u64>,
    /// Sent, and not completed.
    under_way: VecDeque<u64>,
}

/// What became of a frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It is in the receive ring.
    Yes,
    /// Dropped: there was no frame to receive into.
    NoFrame,
    /// Dropped: the receive ring is full.
    RingFull,
    /// Dropped: it is longer than a frame.
    TooLong,
}

/// Both sides of one set of rings. Each may be used on a thread of its own.
///
/// # Errors
/// The shape is not possible, or there is not enough memory.
pub fn pair(shape: Shape) -> Result<(Rings, Kernel), OpenError> {
    shape.check()?;
    let memory = Arc::new(anonymous(shape.memory_bytes())?);
    let (receive_in, receive_out) = ring(shape.receive_entries)?;
    let (transmit_in, transmit_out) = ring(shape.transmit_entries)?;
    let (fill_in, fill_out) = ring(shape.fill_entries)?;
    let (completion_in, completion_out) = ring(shape.completion_entries)?;
    let kernel = Kernel {
        shape,
        memory: Arc::clone(&memory),
        receive: receive_in,
        transmit: transmit_out,
        fill: fill_out,
        completion: completion_in,
        under_way: VecDeque::new(),
    };
    let ends =
        Ends { receive: receive_out, transmit: transmit_in, fill: fill_in, completion: completion_out };
    let mut rings = Rings::new(shape, memory, ends);
    rings.recycle();
    Ok((rings, kernel))
}

impl Kernel {
    /// A frame arrives.
    pub fn deliver(&mut self, data: &[u8]) -> Delivered {
        let Some(bytes) =
            u32::try_from(data.len()).ok().filter(|&bytes| bytes <= self.shape.receive_bytes_max())
        else {
            return Delivered::TooLong;
        };
        // As the kernel: a frame taken from the fill ring for nothing is put back, not lost.
        if self.receive.pending() >= self.shape.receive_entries {
            return Delivered::RingFull;
        }
        let Some(address) = self.fill.pop() else { return Delivered::NoFrame };
        self.fill.release();
        let address = address + u64::from(HEADROOM_BYTES);
        let place = self.memory.at::<u8>(address as usize, data.len());
        // SAFETY: the range is inside the mapping (`Map::at`); the frame was in the fill ring, so it is the kernel's, which is us,
        // and nobody else reads or writes it. `data` is other memory: this frame was never handed out as a slice.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), place.as_ptr(), data.len()) };
        let delivered = self.receive.push(Descriptor { address, bytes, options: 0 });
        assert!(delivered, "there was room");
        self.receive.submit();
        Delivered::Yes
    }

    /// Takes the next frame out of the transmit ring, and gives what it would send. Its completion is under way then.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        let descriptor = self.transmit.pop()?;
        self.transmit.release();
        self.under_way.push_back(descriptor.address);
        let mut data = vec![0; descriptor.bytes as usize];
        let place = self.memory.at::<u8>(descriptor.address as usize, data.len());
        // SAFETY: the range is inside the mapping (`Map::at`); the frame was in the transmit ring, so it is the kernel's, which is us,
        // and nobody else writes it. `data` is other memory.
        unsafe { ptr::copy_nonoverlapping(place.as_ptr(), data.as_mut_ptr(), data.len()) };
        Some(data)
    }

    /// Completes the `which`th (modulo how many there are) of the frames under way: drivers complete in any order. False if there
    /// is none, or no room in the completion ring.
    pub fn complete(&mut self, which: usize) -> bool {
        if self.under_way.is_empty() {
            return false;
        }
        let which = which % self.under_way.len();
        let Some(&address) = self.under_way.get(which) else { return false };
        if !self.completion.push(address) {
            return false;
        }
        self.completion.submit();
        self.under_way.remove(which);
        true
    }

    /// How many frames are sent and not completed.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Puts any descriptor into the receive ring, as a broken driver might. False if there is no room.
    pub fn deliver_descriptor(&mut self, address: u64, bytes: u32, options: u32) -> bool {
        let delivered = self.receive.push(Descriptor { address, bytes, options });
        self.receive.submit();
        delivered
    }

    /// Puts any address into the completion ring, as a broken driver might. False if there is no room.
    pub fn complete_address(&mut self, address: u64) -> bool {
        let completed = self.completion.push(address);
        self.completion.submit();
        completed
    }
}

/// Counters and flags on cache lines of their own, as in the kernel; then the entries.
const LAYOUT: Offsets = Offsets { producer: 0, consumer: 64, flags: 128, entries: 192 };

fn ring<T: Copy>(entries: u32) -> Result<(Producer<T>, Consumer<T>), OpenError> {
    let map = Arc::new(anonymous(LAYOUT.entries + entries as usize * size_of::<T>())?);
    let producer = Producer::new(Ring::new(Arc::clone(&map), LAYOUT, entries));
    Ok((producer, Consumer::new(Ring::new(map, LAYOUT, entries))))
}

fn anonymous(bytes: usize) -> Result<Map, OpenError> {
    Map::anonymous(bytes).map_err(|source| OpenError::Memory { bytes, source })
}
