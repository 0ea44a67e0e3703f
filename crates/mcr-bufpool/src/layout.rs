//! Where each buffer is inside the mapping. Arithmetic only.

use crate::{LINE_BYTES, PoolConfig, PoolError};

/// The span of one way of a common L1 data cache: 64 sets of 64 bytes.
const COLOUR_PERIOD_BYTES: usize = 4096;
const CLASSES_MAX: usize = 256;

/// One class as placed in the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Offset of the first buffer.
    pub(crate) start: usize,
    /// Distance of two buffers.
    pub(crate) stride: usize,
    /// Usable bytes of a buffer.
    pub(crate) bytes: usize,
    pub(crate) buffers: u32,
}

impl Placed {
    /// Offset of one buffer; the index comes from a handle of this class and is therefore in range.
    pub(crate) fn offset(&self, index: u32) -> usize {
        self.start + index as usize * self.stride
    }
}

/// Places the classes one after the other; returns them and the bytes to map.
pub(crate) fn place(config: &PoolConfig) -> Result<(Vec<Placed>, usize), PoolError> {
    if config.classes.is_empty() {
        return Err(PoolError::NoClass);
    }
    if config.classes.len() > CLASSES_MAX {
        return Err(PoolError::TooLarge);
    }
    let mut placed: Vec<Placed> = Vec::with_capacity(config.classes.len());
    let mut end = 0usize;
    for (number, class) in config.classes.iter().enumerate() {
        if class.buffer_bytes == 0 || class.buffers == 0 {
            return Err(PoolError::EmptyClass { class: number });
        }
        let bytes = class.buffer_bytes.checked_next_multiple_of(LINE_BYTES).ok_or(PoolError::TooLarge)?;
        if placed.last().is_some_and(|before| before.bytes >= bytes) {
            return Err(PoolError::Order { class: number });
        }
        let stride = stride(bytes, config.colour).ok_or(PoolError::TooLarge)?;
        // Uncoloured classes keep the alignment that their size gives them: AF_XDP wants chunks on page borders.
        let start = if config.colour { Some(end) } else { end.checked_next_multiple_of(COLOUR_PERIOD_BYTES) }
            .ok_or(PoolError::TooLarge)?;
        let span = stride.checked_mul(class.buffers as usize).ok_or(PoolError::TooLarge)?;
        end = start.checked_add(span).ok_or(PoolError::TooLarge)?;
        placed.push(Placed { start, stride, bytes, buffers: class.buffers });
    }
    // A slice may not be larger than isize::MAX, and rounding up to a page must not overflow.
    if end > isize::MAX as usize / 2 { Err(PoolError::TooLarge) } else { Ok((placed, end)) }
}

fn stride(bytes: usize, colour: bool) -> Option<usize> {
    if colour && bytes.is_multiple_of(COLOUR_PERIOD_BYTES) {
        bytes.checked_add(LINE_BYTES)
    } else {
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Class, HugePages};

    fn config(classes: &[(usize, u32)], colour: bool) -> PoolConfig {
        let classes =
            classes.iter().map(|&(buffer_bytes, buffers)| Class { buffer_bytes, buffers }).collect();
        PoolConfig { classes, huge_pages: HugePages::Never, colour }
    }

    #[test]
    fn coloured_buffers_of_a_page_start_in_all_sets_of_the_cache_equally_often() {
        let (placed, _) = place(&config(&[(8192, 128)], true)).unwrap();
        let mut sets = [0u32; 64];
        for index in 0..128 {
            sets[placed[0].offset(index) / LINE_BYTES % 64] += 1;
        }
        assert_eq!(sets, [2; 64]);
    }

    #[test]
    fn uncoloured_buffers_of_a_page_are_page_aligned() {
        let (placed, bytes) = place(&config(&[(100, 3), (4096, 4)], false)).unwrap();
        assert!((0..4).all(|index| placed[1].offset(index).is_multiple_of(4096)));
        assert_eq!(bytes, 4096 + 4 * 4096);
    }

    #[test]
    fn a_size_that_is_no_multiple_of_a_page_is_left_alone() {
        let (placed, bytes) = place(&config(&[(1500, 10)], true)).unwrap();
        assert_eq!((placed[0].bytes, placed[0].stride, bytes), (1536, 1536, 15360));
    }

    #[test]
    fn bad_configs_are_refused_each_for_its_reason() {
        assert!(matches!(place(&config(&[], true)), Err(PoolError::NoClass)));
        assert!(matches!(place(&config(&[(64, 1), (0, 1)], true)), Err(PoolError::EmptyClass { class: 1 })));
        assert!(matches!(place(&config(&[(64, 0)], true)), Err(PoolError::EmptyClass { class: 0 })));
        assert!(matches!(place(&config(&[(100, 1), (128, 1)], true)), Err(PoolError::Order { class: 1 })));
        assert!(matches!(place(&config(&[(usize::MAX, 1)], true)), Err(PoolError::TooLarge)));
        assert!(matches!(place(&config(&[(isize::MAX as usize / 64, 65)], true)), Err(PoolError::TooLarge)));
    }
}
