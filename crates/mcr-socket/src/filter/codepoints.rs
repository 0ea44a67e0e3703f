//! Sets of codepoints (DSCP), by which filters divide what comes among several sockets.

/// A set of differentiated services codepoints, 0 to 63 (RFC 2474).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Codepoints(u64);

impl Codepoints {
    /// Every codepoint: the mark does not matter.
    pub const ALL: Self = Self(u64::MAX);
    /// None: nothing passes.
    pub const NONE: Self = Self(0);

    /// Whether it has this one; nothing above 63 is one.
    pub fn contains(self, codepoint: u8) -> bool {
        codepoint < 64 && self.0 >> codepoint & 1 == 1
    }

    /// With this one as well; nothing above 63 is one.
    #[must_use]
    pub fn with(self, codepoint: u8) -> Self {
        if codepoint < 64 { Self(self.0 | 1 << codepoint) } else { self }
    }

    /// All that are not in it.
    #[must_use]
    pub fn others(self) -> Self {
        Self(!self.0)
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Bit n is codepoint n.
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl FromIterator<u8> for Codepoints {
    fn from_iter<T: IntoIterator<Item = u8>>(codepoints: T) -> Self {
        codepoints.into_iter().fold(Self::NONE, Self::with)
    }
}
