//! The bytes of a message: header, manifest, body.
//!
//! Pure: no descriptor is touched here. What the bytes promise is checked against what the kernel delivered by
//! the channel.
//!
//! ```text
//!  0       4         6        8            12              12 + 4n
//!  +-------+---------+--------+------------+---------------+------------------+
//!  | magic | version | n: fds | body bytes | n tags of u32 | body             |
//!  +-------+---------+--------+------------+---------------+------------------+
//! ```
//!
//! Numbers are little-endian. The body's length is stated although a packet has one of its own, so that a message
//! that was cut, or that ran into the next one on a stream socket, is never taken for a whole one.

use crate::{BODY_BYTES_MAX, FDS_MAX};
use std::ops::Range;

/// Bytes in front of the tags.
pub const HEADER_BYTES: usize = 12;
/// The longest message there is.
pub const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + 4 * FDS_MAX + BODY_BYTES_MAX;

const MAGIC: [u8; 4] = *b"MFDP";
const VERSION: u16 = 1;

/// What a descriptor is for. Sender and receiver agree on the numbers; this crate gives them no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Shorter than its header or its manifest.
    #[error("message of {got} bytes is shorter than the {want} its header needs")]
    Short {
        /// Bytes needed.
        want: usize,
        /// Bytes there.
        got: usize,
    },
    /// The peer does not speak this format.
    #[error("message starts with {0:02x?}, not with the magic number: the peer is not an mcr-fdpass channel")]
    Magic([u8; 4]),
    /// The peer speaks another version of it.
    #[error("peer speaks version {got} of the format, this side {want}: both must be of one build")]
    Version {
        /// Version of this side.
        want: u16,
        /// Version of the peer.
        got: u16,
    },
    /// More descriptors than a message can have.
    #[error("manifest names {0} descriptors, at most {FDS_MAX} are allowed")]
    TooManyFds(usize),
    /// Longer than a body can be.
    #[error("body of {0} bytes is longer than the {BODY_BYTES_MAX} allowed")]
    BodyTooLong(usize),
    /// The body is not as long as the header says.
    #[error("header states a body of {want} bytes, {got} came")]
    BodyBytes {
        /// Bytes stated.
        want: usize,
        /// Bytes there.
        got: usize,
    },
}

/// A message taken apart: the tags in order, and where its body lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// One tag per descriptor, in the order of the descriptors.
    pub tags: Vec<Tag>,
    /// The range of the body in the bytes decoded.
    pub body: Range<usize>,
}

/// Writes header and tags of a message in front of which no body has been written yet.
///
/// `out` is cleared first. The body follows it on the wire as it is.
///
/// # Errors
/// [`ManifestError::TooManyFds`], [`ManifestError::BodyTooLong`].
pub fn encode_head(
    tags: impl ExactSizeIterator<Item = Tag>,
    body_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), ManifestError> {
    let fds = tags.len();
    if fds > FDS_MAX {
        return Err(ManifestError::TooManyFds(fds));
    }
    if body_bytes > BODY_BYTES_MAX {
        return Err(ManifestError::BodyTooLong(body_bytes));
    }
    out.clear();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    // Both fit: they were compared with constants far below the limits of their types.
    out.extend_from_slice(&(fds as u16).to_le_bytes());
    out.extend_from_slice(&(body_bytes as u32).to_le_bytes());
    tags.for_each(|tag| out.extend_from_slice(&tag.0.to_le_bytes()));
    Ok(())
}

/// Takes a message apart.
///
/// # Errors
/// Any [`ManifestError`]; never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<Message, ManifestError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(ManifestError::Short { want: HEADER_BYTES, got: bytes.len() });
    };
    let [m0, m1, m2, m3, v0, v1, f0, f1, b0, b1, b2, b3] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(ManifestError::Magic([m0, m1, m2, m3]));
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(ManifestError::Version { want: VERSION, got: version });
    }
    let fds = usize::from(u16::from_le_bytes([f0, f1]));
    if fds > FDS_MAX {
        return Err(ManifestError::TooManyFds(fds));
    }
    let body_bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
    if body_bytes > BODY_BYTES_MAX {
        return Err(ManifestError::BodyTooLong(body_bytes));
    }
    let Some((tags, body)) = rest.split_at_checked(4 * fds) else {
        return Err(ManifestError::Short { want: HEADER_BYTES + 4 * fds, got: bytes.len() });
    };
    if body.len() != body_bytes {
        return Err(ManifestError::BodyBytes { want: body_bytes, got: body.len() });
    }
    let (tags, _) = tags.as_chunks::<4>();
    let tags = tags.iter().map(|tag| Tag(u32::from_le_bytes(*tag))).collect();
    Ok(Message { tags, body: HEADER_BYTES + 4 * fds..bytes.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tags: &[u32], body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_head(tags.iter().map(|&tag| Tag(tag)), body.len(), &mut bytes).unwrap();
        bytes.extend_from_slice(body);
        bytes
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            tags in prop::collection::vec(any::<u32>(), 0..=FDS_MAX),
            body in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let bytes = message(&tags, &body);
            let decoded = decode(&bytes).unwrap();
            prop_assert_eq!(decoded.tags.iter().map(|tag| tag.0).collect::<Vec<_>>(), tags);
            prop_assert_eq!(&bytes[decoded.body], &body[..]);
        }

        #[test]
        fn every_proper_prefix_is_refused(
            tags in prop::collection::vec(any::<u32>(), 0..4),
            body in prop::collection::vec(any::<u8>(), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = message(&tags, &body);
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn whatever_is_decoded_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &bytes].concat();
            if bytes.len() > 7 {
                bytes[7] = 0;
            }
            if let Ok(decoded) = decode(&bytes) {
                let tags: Vec<_> = decoded.tags.iter().map(|tag| tag.0).collect();
                prop_assert_eq!(message(&tags, &bytes[decoded.body]), bytes);
            }
        }
    }

    #[test]
    fn two_messages_run_together_are_refused() {
        let one = message(&[1], b"abc");
        let both = [one.clone(), one].concat();
        assert_eq!(decode(&both), Err(ManifestError::BodyBytes { want: 3, got: 22 }));
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let good = message(&[1, 2], b"abc");
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            decode(&bytes)
        };
        assert_eq!(decode(&good[..5]), Err(ManifestError::Short { want: 12, got: 5 }));
        assert_eq!(with(0, b'X'), Err(ManifestError::Magic(*b"XFDP")));
        assert_eq!(with(4, 9), Err(ManifestError::Version { want: 1, got: 9 }));
        assert_eq!(with(7, 1), Err(ManifestError::TooManyFds(258)));
        assert_eq!(with(6, 60), Err(ManifestError::Short { want: 252, got: good.len() }));
        assert_eq!(with(11, 1), Err(ManifestError::BodyTooLong((1 << 24) + 3)));
        assert_eq!(with(8, 2), Err(ManifestError::BodyBytes { want: 2, got: 3 }));
    }
}
