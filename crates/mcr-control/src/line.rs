//! Lines out of a stream of bytes, with a cap on their length. No I/O here.

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 16 * 1024;

/// A line over the cap; where the next one begins is not known any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// What was read and has not been handed out as a line yet.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    // Lines before this have been handed out.
    start: usize,
    // No newline between `start` and this.
    searched: usize,
    line_bytes_max: usize,
}

impl Lines {
    pub(crate) fn new(line_bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, searched: 0, line_bytes_max }
    }

    /// The next line without its newline, if it is whole.
    pub(crate) fn take(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let Some(length) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return if self.searched - self.start > self.line_bytes_max { Err(TooLong) } else { Ok(None) };
        };
        let (start, end) = (self.start, self.searched + length);
        if end - start > self.line_bytes_max {
            return Err(TooLong);
        }
        self.start = end + 1;
        self.searched = self.start;
        Ok(Some(&self.bytes[start..end]))
    }

    /// Whether the beginning of a line is there.
    pub(crate) fn has_half_line(&self) -> bool {
        self.start < self.bytes.len()
    }

    /// Where to append what is read next; handed-out lines are forgotten.
    pub(crate) fn room(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > 4 * READ_BYTES {
            // One long request must not hold its memory for as long as its client stays.
            self.bytes = Vec::new();
        }
        self.bytes.reserve(READ_BYTES);
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_of_just_the_cap_passes_and_one_more_byte_does_not() {
        let mut lines = Lines::new(3);
        lines.room().extend_from_slice(b"abc\nabcd\n");
        assert_eq!(lines.take(), Ok(Some(&b"abc"[..])));
        assert_eq!(lines.take(), Err(TooLong));
    }

    #[test]
    fn a_line_over_the_cap_is_seen_before_its_end_comes() {
        let mut lines = Lines::new(3);
        lines.room().extend_from_slice(b"abc");
        assert_eq!(lines.take(), Ok(None));
        assert!(lines.has_half_line());
        lines.room().extend_from_slice(b"d");
        assert_eq!(lines.take(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn lines_are_what_split_gives_however_the_bytes_come(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            piece in 1usize..20,
        ) {
            let mut lines = Lines::new(usize::MAX);
            let mut got: Vec<Vec<u8>> = Vec::new();
            for part in bytes.chunks(piece) {
                lines.room().extend_from_slice(part);
                while let Some(line) = lines.take().expect("no cap") {
                    got.push(line.to_vec());
                }
            }
            let mut want: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let half = want.pop().expect("split gives at least one");
            prop_assert_eq!(got, want);
            prop_assert_eq!(lines.has_half_line(), !half.is_empty());
        }
    }
}
