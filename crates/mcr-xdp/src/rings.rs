//! The program's side of a UMEM and its four rings: whose each frame is, and every move of it.

use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::frame::Frame;
use crate::map::Map;
use crate::ring::{Consumer, Descriptor, Producer};
use crate::shape::Shape;

/// The UMEM of one socket and the rings through which its frames go.
///
/// Receiving: [`Rings::receive`], then each frame to [`Rings::send`] or [`Rings::release`]. What was sent is shown to the
/// kernel by [`Rings::submit`], and comes back through [`Rings::recycle`], which also gives free frames to the kernel to
/// receive into. System calls are not made here, but by [`Socket`](crate::Socket).
#[derive(Debug)]
pub struct Rings {
    umem: u32,
    shape: Shape,
    memory: Arc<Map>,
    receive: Consumer<Descriptor>,
    transmit: Producer<Descriptor>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    owners: Box<[Owner]>,
    free: Vec<u32>,
    counts: Counts,
}

/// The ends of the rings that the program holds.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) receive: Consumer<Descriptor>,
    pub(crate) transmit: Producer<Descriptor>,
    pub(crate) fill: Producer<u64>,
    pub(crate) completion: Consumer<u64>,
}

/// Whose a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Owner {
    /// In the free list.
    Free,
    /// The kernel's, to receive into: in the fill ring, in use, or in the receive ring.
    Receiving,
    /// The caller's: there is a [`Frame`] of it.
    Held,
    /// The kernel's, to send: in the transmit ring, in use, or in the completion ring.
    Sending,
}

/// How many frames are whose, and what was out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// In the free list.
    pub free: u32,
    /// With the kernel, to receive into.
    pub receiving: u32,
    /// With the caller.
    pub held: u32,
    /// With the kernel, to be sent.
    pub sending: u32,
    /// Descriptors of the receive ring that named no frame given to receive into, or more than a frame holds.
    pub receive_invalid: u64,
    /// Entries of the completion ring that named no frame given to send.
    pub completion_invalid: u64,
}

impl Rings {
    /// All frames begin in the free list.
    pub(crate) fn new(shape: Shape, memory: Arc<Map>, ends: Ends) -> Self {
        let Ends { receive, transmit, fill, completion } = ends;
        Self {
            umem: next_umem(),
            shape,
            memory,
            receive,
            transmit,
            fill,
            completion,
            owners: vec![Owner::Free; shape.frames as usize].into_boxed_slice(),
            // The lowest is taken first.
            free: (0..shape.frames).rev().collect(),
            counts: Counts { free: shape.frames, ..Counts::default() },
        }
    }

    /// The sizes it was made with.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How many frames are whose. `free + receiving + held + sending` is the number of frames, always.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Appends at most `frames_max` received frames to `out`, in the order they came, and says how many.
    #[inline]
    pub fn receive(&mut self, out: &mut Vec<Frame>, frames_max: usize) -> usize {
        let before = out.len();
        for _ in 0..frames_max {
            let Some(descriptor) = self.receive.pop() else { break };
            match self.received(descriptor) {
                Some(frame) => out.push(frame),
                None => self.counts.receive_invalid += 1,
            }
        }
        self.receive.release();
        self.check_sum();
        out.len() - before
    }

    /// Takes a free frame, to be filled and sent: its data is all of the frame behind the headroom, with what its last user left.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        self.pass(index, Owner::Free, Owner::Held);
        let (offset, bytes) = (crate::HEADROOM_BYTES, self.shape.receive_bytes_max());
        Some(Frame { umem: self.umem, index, offset, bytes })
    }

    /// Gives a frame up.
    ///
    /// # Panics
    /// If the frame is another UMEM's.
    #[inline]
    pub fn release(&mut self, frame: Frame) {
        self.check(&frame);
        self.pass(frame.index, Owner::Held, Owner::Free);
        self.free.push(frame.index);
        self.check_sum();
    }

    /// Puts a frame into the transmit ring; the kernel sees it after [`Rings::submit`].
    ///
    /// # Errors
    /// The ring is full; the frame is given back.
    ///
    /// # Panics
    /// If the frame is another UMEM's, or empty: the kernel would drop it without a completion.
    #[inline]
    pub fn send(&mut self, frame: Frame) -> Result<(), Frame> {
        self.check(&frame);
        assert!(frame.bytes > 0, "an empty frame cannot be sent");
        let address = self.address(frame.index) + u64::from(frame.offset);
        if !self.transmit.push(Descriptor { address, bytes: frame.bytes, options: 0 }) {
            return Err(frame);
        }
        self.pass(frame.index, Owner::Held, Owner::Sending);
        self.check_sum();
        Ok(())
    }

    /// Shows the kernel what [`Rings::send`] put into the ring.
    #[inline]
    pub fn submit(&mut self) {
        self.transmit.submit();
    }

    /// Takes back what was sent, and gives the kernel free frames to receive into, except the reserve; what the fill ring has
    /// no room for stays free. Says how many sent frames came back.
    #[inline]
    pub fn recycle(&mut self) -> usize {
        let mut completed = 0;
        while let Some(address) = self.completion.pop() {
            match self.index_of(address) {
                Some(index) if self.owners[index as usize] == Owner::Sending => {
                    self.pass(index, Owner::Sending, Owner::Free);
                    self.free.push(index);
                    completed += 1;
                }
                _ => self.counts.completion_invalid += 1,
            }
        }
        self.completion.release();
        self.refill();
        self.check_sum();
        completed
    }

    /// The data of a frame.
    ///
    /// # Panics
    /// If the frame is another UMEM's.
    #[inline]
    #[must_use]
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let start = self.place(frame, frame.offset, frame.bytes);
        // SAFETY: the range is inside the mapping (`Map::at`), initialised (the kernel zeroes it) and this frame's alone; it is the
        // caller's as long as there is the handle, of which there is one (`Owner::Held`), borrowed for 'a: nobody writes.
        unsafe { slice::from_raw_parts(start.as_ptr(), frame.len()) }
    }

    /// The data of a frame, for writing. Distinct frames can be written at the same time.
    ///
    /// # Panics
    /// If the frame is another UMEM's.
    #[inline]
    #[must_use]
    #[allow(clippy::mut_from_ref)] // The exclusive borrow is that of the handle, of which there is one per frame.
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let start = self.place(frame, frame.offset, frame.bytes);
        // SAFETY: as for `bytes`; the one handle is borrowed exclusively for 'a, so no other slice of this frame exists.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), frame.len()) }
    }

    /// The data of a frame and all that is free behind it, for writing; [`Rings::resize`] says how much of it is data then.
    ///
    /// # Panics
    /// If the frame is another UMEM's.
    #[inline]
    #[must_use]
    #[allow(clippy::mut_from_ref)] // As for `bytes_mut`.
    pub fn room_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let bytes = self.shape.frame_bytes - frame.offset;
        let start = self.place(frame, frame.offset, bytes);
        // SAFETY: as for `bytes_mut`; the room behind the data is the frame's alone as well.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), bytes as usize) }
    }

    /// The `bytes` before the data, where an XDP program can leave metadata (bpf_xdp_adjust_meta); None if the headroom is less.
    /// The kernel does not say whether the program did: what is there must say so itself.
    ///
    /// # Panics
    /// If the frame is another UMEM's.
    #[inline]
    #[must_use]
    pub fn metadata<'a>(&'a self, frame: &'a Frame, bytes: u32) -> Option<&'a [u8]> {
        let start = self.place(frame, frame.offset.checked_sub(bytes)?, bytes);
        // SAFETY: as for `bytes`; the headroom of a frame is as much its own as the data.
        Some(unsafe { slice::from_raw_parts(start.as_ptr(), bytes as usize) })
    }

    /// Changes the length of the data, whose beginning stays. What is added is whatever was there; false if a frame does not
    /// hold that much, and nothing is changed then.
    #[must_use]
    pub fn resize(&self, frame: &mut Frame, bytes: usize) -> bool {
        let room = (self.shape.frame_bytes - frame.offset) as usize;
        if bytes > room {
            return false;
        }
        // At most the size of a frame.
        frame.bytes = bytes as u32;
        true
    }

    /// How many frames are in the transmit ring that the kernel has not taken.
    pub(crate) fn transmit_pending(&mut self) -> u32 {
        self.transmit.pending()
    }

    pub(crate) fn transmit_needs_wakeup(&self) -> bool {
        self.transmit.needs_wakeup()
    }

    pub(crate) fn fill_needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    #[inline]
    fn refill(&mut self) {
        while self.free.len() > self.shape.reserve_frames as usize {
            let Some(&index) = self.free.last() else { break };
            if !self.fill.push(self.address(index)) {
                break;
            }
            self.free.pop();
            self.pass(index, Owner::Free, Owner::Receiving);
        }
        self.fill.submit();
    }

    /// A frame out of a descriptor, if it is one that the kernel was given to receive into. One whose length is impossible is
    /// taken back.
    #[inline]
    fn received(&mut self, descriptor: Descriptor) -> Option<Frame> {
        let index = self.index_of(descriptor.address)?;
        if self.owners[index as usize] != Owner::Receiving {
            return None;
        }
        let offset = (descriptor.address - self.address(index)) as u32;
        if descriptor.bytes > self.shape.frame_bytes - offset || descriptor.options & libc::XDP_PKT_CONTD != 0
        {
            self.pass(index, Owner::Receiving, Owner::Free);
            self.free.push(index);
            return None;
        }
        self.pass(index, Owner::Receiving, Owner::Held);
        // Another core has just written it; the caller will look at it when it has taken a batch.
        crate::sys::prefetch(self.memory.at(descriptor.address as usize, descriptor.bytes as usize));
        Some(Frame { umem: self.umem, index, offset, bytes: descriptor.bytes })
    }

    #[inline]
    fn pass(&mut self, index: u32, from: Owner, to: Owner) {
        let owner = &mut self.owners[index as usize];
        assert!(*owner == from, "frame {index} is {owner:?}, not {from:?}");
        *owner = to;
        *self.count(from) -= 1;
        *self.count(to) += 1;
    }

    #[inline]
    fn count(&mut self, owner: Owner) -> &mut u32 {
        match owner {
            Owner::Free => &mut self.counts.free,
            Owner::Receiving => &mut self.counts.receiving,
            Owner::Held => &mut self.counts.held,
            Owner::Sending => &mut self.counts.sending,
        }
    }

    #[inline]
    fn address(&self, index: u32) -> u64 {
        u64::from(index) * u64::from(self.shape.frame_bytes)
    }

    /// The frame that an address is in; None if outside the memory.
    #[inline]
    fn index_of(&self, address: u64) -> Option<u32> {
        // The size of a frame is a power of two (`Shape::check`).
        let index = address >> self.shape.frame_bytes.trailing_zeros();
        (index < u64::from(self.shape.frames)).then_some(index as u32)
    }

    #[inline]
    fn place(&self, frame: &Frame, offset: u32, bytes: u32) -> std::ptr::NonNull<u8> {
        self.check(frame);
        self.memory.at(self.address(frame.index) as usize + offset as usize, bytes as usize)
    }

    #[inline]
    fn check(&self, frame: &Frame) {
        assert!(frame.umem == self.umem, "a frame of UMEM {} was used with UMEM {}", frame.umem, self.umem);
    }

    #[inline]
    fn check_sum(&self) {
        let Counts { free, receiving, held, sending, .. } = self.counts;
        debug_assert_eq!(free + receiving + held + sending, self.shape.frames, "{:?}", self.counts);
        debug_assert_eq!(free as usize, self.free.len());
    }
}

/// Numbers for UMEMs, never used twice in a process.
fn next_umem() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let umem = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(umem != u32::MAX, "the numbers for UMEMs are used up");
    umem
}
