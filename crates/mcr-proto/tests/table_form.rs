//! Endpoints as tables, where people write them: JSON and TOML.

use mcr_proto::endpoint::{Endpoint, Input, Output, Ttl};
use serde::Deserialize;

#[test]
fn an_input_in_json_may_be_a_table() {
    let table = r#"{"address": "232.1.1.1", "port": 5000, "interface": "eth0", "source": "10.0.0.9"}"#;
    let string = r#""10.0.0.9>232.1.1.1:5000@eth0""#;
    assert_eq!(serde_json::from_str::<Input>(table).unwrap(), serde_json::from_str::<Input>(string).unwrap());
}

#[test]
fn an_output_in_json_may_be_a_table_with_its_keys() {
    let table = r#"{"address": "ff05::1", "port": 6000, "interface": "eth1", "ttl": 16, "dscp": "af41",
        "source": "[2001:db8::1]:7", "loop": true, "rate": 8000000}"#;
    let expected = "[ff05::1]:6000@eth1,ttl=16,dscp=af41,source=[2001:db8::1]:7,loop=on,rate=8M";
    assert_eq!(serde_json::from_str::<Output>(table).unwrap().to_string(), expected);
    assert_eq!(
        serde_json::to_string(&expected.parse::<Output>().unwrap()).unwrap(),
        format!("\"{expected}\"")
    );
}

#[test]
fn an_endpoint_in_json_may_be_a_table_without_an_interface() {
    let table = r#"{"address": "10.0.0.1", "port": 6000}"#;
    assert_eq!(serde_json::from_str::<Endpoint>(table).unwrap().to_string(), "10.0.0.1:6000");
}

#[test]
fn a_table_in_toml_reads_as_its_string() {
    #[derive(Deserialize)]
    struct File {
        input: Input,
        output: Output,
    }
    let text = r#"
        output = { address = "10.0.0.1", port = 6000, ttl = "keep" }
        [input]
        address = "239.1.1.1"
        port = 5000
        interface = "eth0"
    "#;
    let file: File = toml::from_str(text).unwrap();
    assert_eq!(file.input.to_string(), "239.1.1.1:5000@eth0");
    assert_eq!(file.output.ttl, Ttl::Keep);
}

#[test]
fn a_wrong_table_says_what_is_wrong() {
    for (table, message) in [
        (r#"{"address": "239.1.1.1", "port": 5000}"#, "input `239.1.1.1:5000` names no interface"),
        (r#"{"address": "239.1.1.1", "interface": "eth0"}"#, "key `port` is missing; add port = 5000"),
        (r#"{"port": 5000, "interface": "eth0"}"#, "key `address` is missing"),
        (r#"{"adress": "239.1.1.1"}"#, "unknown key `adress` (did you mean `address`?)"),
        (r#"{"ttl": 5}"#, "unknown key `ttl`; known are address, port, interface, source"),
        (r#"{"port": 5000, "port": 5000}"#, "key `port` is given twice; remove one"),
        (r#"{"port": 65536}"#, "port `65536` is not a number from 1 to 65535"),
        (r#"{"port": -1}"#, "port `-1` is not a number from 1 to 65535"),
        (r#"{"port": [5000]}"#, "invalid type: sequence, expected a string, an integer or a boolean"),
        ("5000", "invalid type: integer `5000`, expected an input, as \"239.1.1.1:5000@eth0\" or a table"),
    ] {
        let error = serde_json::from_str::<Input>(table).unwrap_err().to_string();
        assert!(error.starts_with(message), "{table}: {error}");
    }
}

#[test]
fn a_format_that_does_not_describe_itself_gets_strings() {
    let output: Output = "10.0.0.1:6000,ttl=keep".parse().unwrap();
    let bytes = postcard::to_stdvec(&output).unwrap();
    assert_eq!(bytes, postcard::to_stdvec("10.0.0.1:6000,ttl=keep").unwrap());
    let forged = postcard::to_stdvec("10.0.0.1:0").unwrap();
    assert!(postcard::from_bytes::<Output>(&forged).is_err(), "what arrives is checked");
}
