//! Bytes of one message between the supervisor and its children: postcard, with a cap on the size.
//!
//! Transport and descriptors are not here: each message is one packet of a `SOCK_SEQPACKET` socket, so nothing frames it
//! but its own length. Decoding is total: any bytes give a message or an error, and bytes left over are an error too.

use serde::{Serialize, de::DeserializeOwned};

/// The largest message, in bytes. Fits the default send buffer of a Unix socket, which bounds a packet.
pub const MESSAGE_BYTES_MAX: usize = 192 * 1024;

/// Why a message could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Over the cap.
    #[error("message of {bytes} bytes is over the limit of {MESSAGE_BYTES_MAX}")]
    TooLarge {
        /// The message's size.
        bytes: usize,
    },
    /// Not a message of the expected type.
    #[error("malformed message: {what}")]
    Malformed {
        /// What the decoder said.
        what: String,
    },
    /// A whole message, and then something else.
    #[error("{bytes} bytes after the end of the message")]
    Trailing {
        /// How many bytes were left over.
        bytes: usize,
    },
}

/// The bytes of `message`.
///
/// # Errors
/// [`CodecError::TooLarge`] if they are more than [`MESSAGE_BYTES_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes =
        postcard::to_stdvec(message).map_err(|error| CodecError::Malformed { what: error.to_string() })?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes: bytes.len() });
    }
    Ok(bytes)
}

/// The message that `bytes` are.
///
/// # Errors
/// Any [`CodecError`]; never panics, and allocates no more than the bytes themselves could describe.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes: bytes.len() });
    }
    let (message, rest) = postcard::take_from_bytes(bytes)
        .map_err(|error| CodecError::Malformed { what: error.to_string() })?;
    if !rest.is_empty() {
        return Err(CodecError::Trailing { bytes: rest.len() });
    }
    Ok(message)
}

/// Splits `items` into runs that each encode to at most `bytes_max` (a single larger item forms a run of its own).
pub fn chunks<T: Serialize>(items: Vec<T>, bytes_max: usize) -> Vec<Vec<T>> {
    let mut runs = Vec::new();
    let mut run = Vec::new();
    let mut run_bytes = 0;
    for item in items {
        // An item that cannot be encoded fails where it is sent; here it only needs a size.
        let bytes = postcard::to_stdvec(&item).map_or(bytes_max, |encoded| encoded.len());
        if !run.is_empty() && run_bytes + bytes > bytes_max {
            runs.push(std::mem::take(&mut run));
            run_bytes = 0;
        }
        run_bytes += bytes;
        run.push(item);
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let message = (7u32, "text".to_owned(), vec![1u8, 2, 3]);
        let bytes = encode(&message).expect("small");
        assert_eq!(decode::<(u32, String, Vec<u8>)>(&bytes).expect("own bytes"), message);
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        let mut bytes = encode(&7u32).expect("small");
        bytes.push(0);
        assert!(matches!(decode::<u32>(&bytes), Err(CodecError::Trailing { bytes: 1 })));
    }

    #[test]
    fn a_message_over_the_cap_is_refused_both_ways() {
        let large = vec![0u8; MESSAGE_BYTES_MAX];
        assert!(matches!(encode(&large), Err(CodecError::TooLarge { .. })));
        assert!(matches!(
            decode::<Vec<u8>>(&vec![0; MESSAGE_BYTES_MAX + 1]),
            Err(CodecError::TooLarge { .. })
        ));
    }

    #[test]
    fn chunks_keep_order_and_stay_under_the_cap() {
        let items: Vec<u32> = (0..1000).collect();
        let runs = chunks(items.clone(), 64);
        assert!(runs.iter().all(|run| postcard::to_stdvec(run).expect("small").len() <= 66));
        assert_eq!(runs.concat(), items);
    }
}
