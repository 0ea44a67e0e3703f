//! Whatever parses as an endpoint has a canonical form that parses to the same, passes its own check, and survives
//! serde; whatever does not is refused in one line.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use mcr_proto::endpoint::{Endpoint, EndpointError, Input, Output};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|text: &str| {
    round_trip(text, Input::check);
    round_trip(text, Output::check);
    round_trip(text, Endpoint::check);
});

fn round_trip<T>(text: &str, check: fn(&T) -> Result<(), EndpointError>)
where
    T: FromStr<Err = EndpointError> + Display + PartialEq + Debug + Serialize + DeserializeOwned,
{
    let value = match text.parse::<T>() {
        Ok(value) => value,
        Err(error) => return assert!(!error.to_string().contains('\n'), "{error}"),
    };
    assert_eq!(check(&value), Ok(()));
    let canonical = value.to_string();
    let again: T = canonical.parse().expect("the canonical form parses");
    assert_eq!(again, value);
    assert_eq!(again.to_string(), canonical);
    let json = serde_json::to_string(&value).expect("a string is JSON");
    assert_eq!(serde_json::from_str::<T>(&json).expect("what was written reads"), value);
}
