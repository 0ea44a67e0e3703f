//! Walks the control messages of one `recvmsg(2)`, given as raw bytes.
//!
//! Total: a header that lies about its length ends the walk. Needs no alignment, so the bytes may come from any
//! buffer, such as the one of an io_uring multishot receive.

/// `CMSG_ALIGN` and the size of `size_t`.
const WORD: usize = size_of::<usize>();
/// `struct cmsghdr`: a `size_t` and two ints.
const HEADER: usize = WORD + 8;

/// Level, type and data of each control message, in order.
pub(crate) fn messages(mut control: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    std::iter::from_fn(move || {
        let bytes = usize::from_ne_bytes(*control.first_chunk()?);
        let level = i32::from_ne_bytes(*control.get(WORD..)?.first_chunk()?);
        let kind = i32::from_ne_bytes(*control.get(WORD + 4..)?.first_chunk()?);
        let data = control.get(HEADER..bytes)?;
        // No overflow: `bytes` was found to lie within the slice.
        control = control.get(bytes.next_multiple_of(WORD)..).unwrap_or_default();
        Some((level, kind, data))
    })
}

/// A native `int` at the start of the data, as most options are given.
pub(crate) fn int(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

#[cfg(test)]
pub(crate) fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = (HEADER + data.len()).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&level.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(WORD), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_come_out_as_they_were_written(
            written in prop::collection::vec((any::<i32>(), any::<i32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            unpadded in any::<bool>(),
        ) {
            let mut bytes: Vec<u8> = written.iter().flat_map(|(l, k, data)| message(*l, *k, data)).collect();
            // The kernel does not pad after the last one where the room ends.
            if let (true, Some((_, _, last))) = (unpadded, written.last()) {
                bytes.truncate(bytes.len() - (last.len().next_multiple_of(WORD) - last.len()));
            }
            let read: Vec<_> = messages(&bytes).map(|(l, k, data)| (l, k, data.to_vec())).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn any_bytes_end_the_walk_sooner_or_later(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
        }

        #[test]
        fn any_length_ends_the_walk(bytes in any::<usize>(), rest in prop::collection::vec(any::<u8>(), 8..64)) {
            let control = [&bytes.to_ne_bytes()[..], &rest].concat();
            let first = messages(&control).next();
            prop_assert_eq!(first.is_some(), (HEADER..=control.len()).contains(&bytes));
        }
    }
}
