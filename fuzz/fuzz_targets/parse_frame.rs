//! The parser against etherparse: whatever the bytes, both say the same of them, and the verifier says what plain
//! arithmetic says. The first byte chooses the link layer.
#![no_main]

#[path = "../../crates/mcr-parse/tests/it/oracle.rs"]
#[allow(dead_code)]
mod oracle;

use libfuzzer_sys::fuzz_target;
use mcr_parse::Link;

fuzz_target!(|data: &[u8]| {
    let Some((first, frame)) = data.split_first() else { return };
    let link = if first & 1 == 0 { Link::Ethernet } else { Link::RawIp };
    oracle::check_parse(frame, link);
});
