//! Bounds-checked access to header bytes. Every read of a frame goes through these: a frame that is too short yields
//! `None`, never a panic.

/// The `N` bytes at `offset`, or `None` where the frame ends before them.
#[inline(always)]
pub(crate) fn array_at<const N: usize>(frame: &[u8], offset: usize) -> Option<&[u8; N]> {
    frame.get(offset..)?.first_chunk()
}

/// The `N` bytes at `offset`, to be written.
#[inline(always)]
pub(crate) fn array_at_mut<const N: usize>(frame: &mut [u8], offset: usize) -> Option<&mut [u8; N]> {
    frame.get_mut(offset..)?.first_chunk_mut()
}

/// A header of a known length, read at constant places. Out of range does not compile.
pub(crate) trait Header {
    /// The big-endian word at `INDEX`.
    fn u16_at<const INDEX: usize>(&self) -> u16;

    /// `LEN` bytes at `INDEX`, copied.
    fn copy_at<const INDEX: usize, const LEN: usize>(&self) -> [u8; LEN];
}

impl<const N: usize> Header for [u8; N] {
    #[inline(always)]
    fn u16_at<const INDEX: usize>(&self) -> u16 {
        const { assert!(INDEX + 2 <= N) };
        u16::from_be_bytes([self[INDEX], self[INDEX + 1]])
    }

    #[inline(always)]
    fn copy_at<const INDEX: usize, const LEN: usize>(&self) -> [u8; LEN] {
        const { assert!(INDEX + LEN <= N) };
        let mut copy = [0; LEN];
        copy.copy_from_slice(&self[INDEX..INDEX + LEN]);
        copy
    }
}
