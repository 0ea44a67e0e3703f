//! Any line gives a typed call or an error fit to be sent back; what is called has passed its own check.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcr_control::request::{Call, parse_line};
use serde_json::Value;

type Response = mcr_proto::rpc::Response<Value, Value>;

fuzz_target!(|line: &[u8]| {
    let incoming = parse_line(line);
    match incoming.call {
        Ok(Call::RuleAdd(spec)) => {
            spec.check().expect("a call that is handed on is checked");
            // The oracle: what was read, written and read again, is the same.
            let text = serde_json::to_string(&spec).expect("a rule is plain data");
            assert_eq!(*spec, serde_json::from_str(&text).expect("own text"));
        }
        Ok(_) => {}
        Err(error) => {
            let response = Response::failure(Value::Null, error);
            let text = serde_json::to_string(&response).expect("a response is plain data");
            assert!(!text.contains('\n'));
            assert_eq!(response, serde_json::from_str(&text).expect("own text"));
        }
    }
});
