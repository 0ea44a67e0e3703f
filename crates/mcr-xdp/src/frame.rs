//! The handle of a frame.

/// One frame of one UMEM in the caller's hands: neither `Copy` nor `Clone`, given back by value, to
/// [`Rings::send`](crate::Rings::send) or [`Rings::release`](crate::Rings::release).
#[must_use = "a dropped frame is lost to its UMEM"]
#[derive(Debug)]
pub struct Frame {
    /// The number of the `Rings` it is of.
    pub(crate) umem: u32,
    /// Which frame of the UMEM.
    pub(crate) index: u32,
    /// Where its data begins; `offset + bytes` is at most the size of a frame.
    pub(crate) offset: u32,
    /// How long its data is.
    pub(crate) bytes: u32,
}

impl Frame {
    /// The length of its data.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes as usize
    }

    /// Whether it holds no data. Such a frame cannot be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}
