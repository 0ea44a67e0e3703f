//! The decoder of every channel between the processes: any bytes give a message or an error, and a message that was decoded
//! encodes to bytes that decode to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcr_proto::{
    codec::{decode, encode},
    message::{FromControl, FromWorker, ToControl, ToWorker},
};

fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = decode::<T>(bytes) {
        let again = encode(&message).expect("what fitted once fits again");
        assert_eq!(decode::<T>(&again).expect("own bytes"), message);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((channel, bytes)) = data.split_first() else { return };
    match channel % 4 {
        0 => round_trip::<ToWorker>(bytes),
        1 => round_trip::<FromWorker>(bytes),
        2 => round_trip::<ToControl>(bytes),
        _ => round_trip::<FromControl>(bytes),
    }
});
