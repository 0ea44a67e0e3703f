//! The sizes of a UMEM and its rings.

use crate::ShapeError;

/// What the kernel leaves free before each received frame (XDP_PACKET_HEADROOM of linux/bpf.h); an XDP program can put metadata there.
pub const HEADROOM_BYTES: u32 = 256;

/// The smallest chunk the kernel takes (XDP_UMEM_MIN_CHUNK_SIZE of net/xdp/xdp_umem.h); the largest is a page.
const FRAME_BYTES_MIN: u32 = 2048;
/// Addresses of frames stay far below what the kernel's 32-bit page counts hold, and a mistyped size is found early.
const FRAMES_MAX: u32 = 1 << 20;
const ENTRIES_MAX: u32 = 1 << 20;

/// The sizes of a UMEM and its four rings; plain numbers, so that they can be passed along with the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many frames the UMEM has.
    pub frames: u32,
    /// The size of each: 2,048 or, if pages are that large, 4,096 and so on. A received frame begins after [`HEADROOM_BYTES`] of it.
    pub frame_bytes: u32,
    /// Entries of the receive ring, a power of two: the longest burst that can wait for the program.
    pub receive_entries: u32,
    /// Entries of the transmit ring, a power of two.
    pub transmit_entries: u32,
    /// Entries of the fill ring, a power of two: how many frames the kernel can have at hand for receiving.
    pub fill_entries: u32,
    /// Entries of the completion ring, a power of two. The kernel sends nothing while it is full.
    pub completion_entries: u32,
    /// Frames that [`Rings::recycle`](crate::Rings::recycle) keeps in the free list for [`Rings::take`](crate::Rings::take).
    pub reserve_frames: u32,
}

impl Default for Shape {
    /// 8,192 frames of 2,048 bytes (16 MiB), rings of 4,096 entries, no reserve.
    fn default() -> Self {
        Self {
            frames: 8192,
            frame_bytes: 2048,
            receive_entries: 4096,
            transmit_entries: 4096,
            fill_entries: 4096,
            completion_entries: 4096,
            reserve_frames: 0,
        }
    }
}

impl Shape {
    /// As the default, with as many frames and ring entries as given: twice as many frames as entries, so that the
    /// receive ring can be full while as many frames are on their way out.
    #[must_use]
    pub fn with_entries(entries: u32) -> Self {
        Self {
            frames: entries.saturating_mul(2),
            receive_entries: entries,
            transmit_entries: entries,
            fill_entries: entries,
            completion_entries: entries,
            ..Self::default()
        }
    }

    /// The longest frame that can be received.
    #[must_use]
    pub fn receive_bytes_max(&self) -> u32 {
        self.frame_bytes.saturating_sub(HEADROOM_BYTES)
    }

    /// The size of the memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.frames as usize * self.frame_bytes as usize
    }

    pub(crate) fn check(&self) -> Result<(), ShapeError> {
        let page_bytes = crate::sys::page_bytes();
        if !self.frame_bytes.is_power_of_two() || !(FRAME_BYTES_MIN..=page_bytes).contains(&self.frame_bytes)
        {
            return Err(ShapeError::FrameBytes { bytes: self.frame_bytes, page_bytes });
        }
        if self.frames == 0 || self.frames > FRAMES_MAX {
            return Err(ShapeError::Frames { frames: self.frames, max: FRAMES_MAX });
        }
        for (ring, entries) in [
            ("receive", self.receive_entries),
            ("transmit", self.transmit_entries),
            ("fill", self.fill_entries),
            ("completion", self.completion_entries),
        ] {
            if !entries.is_power_of_two() || entries > ENTRIES_MAX {
                return Err(ShapeError::Entries { ring, entries, max: ENTRIES_MAX });
            }
        }
        if self.reserve_frames >= self.frames {
            return Err(ShapeError::Reserve { reserve: self.reserve_frames, frames: self.frames });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_shape_is_one_that_the_kernel_takes() {
        Shape::default().check().unwrap();
        assert_eq!(Shape::default().memory_bytes(), 16 << 20);
        assert_eq!(Shape::default().receive_bytes_max(), 1792);
    }

    #[test]
    fn a_size_that_the_kernel_would_refuse_is_refused_with_its_name() {
        let shape = Shape { frame_bytes: 1500, ..Shape::default() };
        assert!(matches!(shape.check(), Err(ShapeError::FrameBytes { bytes: 1500, .. })));
        let shape = Shape { fill_entries: 1000, ..Shape::default() };
        assert!(matches!(shape.check(), Err(ShapeError::Entries { ring: "fill", entries: 1000, .. })));
        let shape = Shape { frames: 0, ..Shape::default() };
        assert!(matches!(shape.check(), Err(ShapeError::Frames { .. })));
        let shape = Shape { frames: 8, reserve_frames: 8, ..Shape::default() };
        assert!(matches!(shape.check(), Err(ShapeError::Reserve { .. })));
    }
}
