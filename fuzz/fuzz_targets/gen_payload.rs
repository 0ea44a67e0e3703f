//! The payload check of the traffic generator: whatever passes is, byte for byte, what the writer makes of its header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcr_gen::payload;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = payload::check(data) {
        let mut again = vec![0; data.len()];
        payload::write(&mut again, &header);
        assert_eq!(data, again);
    }
});
