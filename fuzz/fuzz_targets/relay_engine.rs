//! The relay engine against a model that relays datagram by datagram: whatever plans and arrivals the bytes stand for, both
//! send the same copies in the same order and count the same.
#![no_main]

#[path = "../../crates/mcr-relay/tests/it/model.rs"]
mod model;
#[path = "../../crates/mcr-relay/tests/it/scenario.rs"]
mod scenario;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Longer inputs say nothing new, and the model is slow.
    let bytes = &bytes[..bytes.len().min(4096)];
    model::check(&scenario::Scenario::from_bytes(bytes));
});
