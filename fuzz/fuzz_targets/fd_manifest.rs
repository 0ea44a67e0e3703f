//! Any bytes decode to an error or to a message that encodes to those very bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcr_fdpass::manifest::{decode, encode_head};
use mcr_fdpass::{BODY_BYTES_MAX, FDS_MAX};

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = decode(bytes) else { return };
    assert!(message.tags.len() <= FDS_MAX);
    assert!(message.body.len() <= BODY_BYTES_MAX);
    assert_eq!(message.body.end, bytes.len());
    let mut again = Vec::new();
    encode_head(message.tags.iter().copied(), message.body.len(), &mut again).expect("within bounds");
    again.extend_from_slice(&bytes[message.body]);
    assert_eq!(again, bytes);
});
