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

/// The big-endian word at a constant `INDEX` of a header. Out of range does not compile.
#[inline(always)]
pub(crate) fn u16_at<const INDEX: usize, const N: usize>(header: &[u8; N]) -> u16 {
    const { assert!(INDEX + 2 <= N) };
    u16::from_be_bytes([header[INDEX], header[INDEX + 1]])
}

/// `LEN` bytes at a constant `INDEX` of a header, copied. Out of range does not compile.
#[inline(always)]
pub(crate) fn copy_at<const INDEX: usize, const LEN: usize, const N: usize>(header: &[u8; N]) -> [u8; LEN] {
    const { assert!(INDEX + LEN <= N) };
    let mut copy = [0; LEN];
    copy.copy_from_slice(&header[INDEX..INDEX + LEN]);
    copy
}
