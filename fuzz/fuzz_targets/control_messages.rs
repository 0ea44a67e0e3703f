//! Control messages and names from raw bytes. The oracle: messages lie inside the input, in order and apart, and each one's
//! length word, read again from where it must stand, agrees with it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mcr_uring_io::{ControlMessages, Datagram};

const WORD: usize = size_of::<usize>();

fuzz_target!(|input: &[u8]| {
    let mut end = 0;
    for message in ControlMessages::new(input) {
        let start = message.data.as_ptr().addr() - input.as_ptr().addr();
        let header = start - 16;
        assert!(header >= end && header.is_multiple_of(WORD), "messages overlap or are not aligned");
        let length = usize::from_ne_bytes(input[header..header + WORD].try_into().expect("a word"));
        assert_eq!(length, 16 + message.data.len());
        assert_eq!(message.level.to_ne_bytes(), input[header + 8..header + 12]);
        assert_eq!(message.kind.to_ne_bytes(), input[header + 12..header + 16]);
        end = start + message.data.len();
        assert!(end <= input.len());
    }
    let datagram = Datagram {
        name: input,
        control: &[],
        payload: &[],
        truncated: false,
        control_truncated: false,
        ring_header: &[],
    };
    if let Some(source) = datagram.source() {
        assert_eq!(source.port().to_be_bytes(), input[2..4]);
        assert!(input.len() >= if source.is_ipv4() { 8 } else { 28 });
    }
});
