use super::*;

fn rule(input: &str, outputs: &[&str]) -> RuleSpec {
    RuleSpec::new(input.parse().unwrap(), outputs.iter().map(|output| output.parse().unwrap()).collect())
}

#[test]
fn a_rule_that_makes_sense_passes() {
    for (input, outputs) in [
        ("239.1.1.1:5000@eth0", &["239.2.2.2:6000@eth1,ttl=16", "10.100.0.2:6000"][..]),
        ("239.1.1.1:5000@eth0", &["239.1.1.1:5000@eth1"]),
        ("239.1.1.1:5000@eth0", &["239.1.1.1:5001@eth0"]),
        // The route to a group may lead anywhere; only the supervisor, which sees routes, can judge this one.
        ("239.1.1.1:5000@eth0", &["239.1.1.1:5000"]),
        ("239.1.1.1:5000@eth0", &["10.0.0.1:1@eth1", "10.0.0.1:1@eth2", "10.0.0.1:1", "10.0.0.1:2"]),
        ("239.1.1.1:5000@eth0", &["[ff05::1]:5000@eth0"]),
        ("239.1.1.1:5000@eth0", &["10.0.0.1:1,source=keep"]),
    ] {
        assert_eq!(rule(input, outputs).check(), Ok(()), "{input} {outputs:?}");
    }
}

#[test]
fn a_rule_that_makes_no_sense_says_which_field_and_why() {
    let many: Vec<String> =
        (0..1025).map(|index| format!("10.0.{}.{}:1", index / 250, 1 + index % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (rule, field, message) in [
        (
            rule("239.1.1.1:5000@eth0", &[]),
            "outputs",
            "the rule has no outputs; name at least one, as in \"10.100.0.2:6000\"",
        ),
        (
            rule("239.1.1.1:5000@eth0", &many),
            "outputs",
            "the rule has 1025 outputs; at most 1024 are taken, split it over several rules",
        ),
        (
            rule("239.1.1.1:5000@eth0", &["10.0.0.1:1@eth1", "10.0.0.2:1", "10.0.0.1:1@eth1,ttl=5"]),
            "outputs[2]",
            "outputs 0 and 2 both send to 10.0.0.1:1@eth1; remove one",
        ),
        (
            rule("239.1.1.1:5000@eth0", &["239.1.1.1:5000@eth0,ttl=5"]),
            "outputs[0]",
            "output 0 sends to 239.1.1.1:5000@eth0, which the input takes in again: the rule would loop; change its \
             address, port or interface",
        ),
        (
            rule("10.0.0.2:5000@eth0", &["10.0.0.3:1", "10.0.0.2:5000"]),
            "outputs[1]",
            "output 1 sends to 10.0.0.2:5000, which the input takes in again: the rule would loop; change its address, \
             port or interface",
        ),
        (
            rule("239.1.1.1:5000@eth0", &["[ff05::1]:1,source=keep"]),
            "outputs[0]",
            "output 0: source=keep cannot keep an IPv4 source in an IPv6 datagram; write source=interface or leave it out",
        ),
        (
            RuleSpec { class: Some("a b".to_owned()), ..rule("239.1.1.1:5000@eth0", &["10.0.0.1:1"]) },
            "class",
            "class: name `a b` contains ' '; use A-Z a-z 0-9 . _ - only",
        ),
    ] {
        let error = rule.check().unwrap_err();
        assert_eq!((error.field().as_str(), error.to_string().as_str()), (field, message));
    }
}

#[test]
fn endpoints_made_by_hand_are_checked_with_the_rule() {
    let mut bad = rule("239.1.1.1:5000@eth0", &["10.0.0.1:1", "10.0.0.2:1"]);
    bad.outputs[1].port = 0;
    assert_eq!(
        bad.check().unwrap_err().to_string(),
        "output 1: the port is 0; write a number from 1 to 65535"
    );
    bad.input.port = 0;
    assert_eq!(bad.check().unwrap_err().to_string(), "input: the port is 0; write a number from 1 to 65535");
}

#[test]
fn a_rule_in_json_leaves_out_what_is_default() {
    let spec = rule("239.1.1.1:5000@eth0", &["10.0.0.1:1"]);
    let text = r#"{"input":"239.1.1.1:5000@eth0","outputs":["10.0.0.1:1"]}"#;
    assert_eq!(serde_json::to_string(&spec).unwrap(), text);
    assert_eq!(serde_json::from_str::<RuleSpec>(text).unwrap(), spec);
}

#[test]
fn a_rule_in_json_refuses_fields_it_does_not_have() {
    let text = r#"{"input":"239.1.1.1:5000@eth0","outputs":["10.0.0.1:1"],"enable":true}"#;
    let error = serde_json::from_str::<RuleSpec>(text).unwrap_err().to_string();
    assert!(error.starts_with("unknown field `enable`"), "{error}");
}

#[test]
fn what_is_legal_but_unlikely_is_a_warning() {
    let mut spec = rule("232.1.1.1:5000@eth0", &["10.0.0.1:1,loop=on", "239.1.1.1:1,loop=on"]);
    spec.class = Some("video".to_owned());
    assert_eq!(
        spec.warnings(),
        [
            "input 232.1.1.1:5000@eth0: the group is for source-specific multicast, but no source is named; write \
             SOURCE>232.1.1.1:5000@eth0",
            "output 10.0.0.1:1,loop=on: loop=on has no effect, the address is not multicast",
        ]
    );
    assert!(rule("239.1.1.1:5000@eth0", &["10.0.0.1:1"]).warnings().is_empty());
}

#[test]
fn a_data_path_is_the_word_it_is_written_as() {
    for (choice, word) in [
        (DatapathChoice::Auto, "auto"),
        (DatapathChoice::Kernel, "kernel"),
        (DatapathChoice::Packet, "packet"),
        (DatapathChoice::Udp, "udp"),
    ] {
        assert_eq!(choice.to_string(), word);
        assert_eq!(word.parse(), Ok(choice));
        assert_eq!(serde_json::to_string(&choice).unwrap(), format!("\"{word}\""));
    }
    assert_eq!(
        "xdp".parse::<DatapathChoice>().unwrap_err().to_string(),
        "`xdp` is no data path; write auto, kernel, packet or udp"
    );
}
