use super::super::{Codepoint, Rate};
use super::*;

fn input(text: &str) -> Result<Input, EndpointError> {
    text.parse()
}

fn output(text: &str) -> Result<Output, EndpointError> {
    text.parse()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_parts_of_an_input_land_in_their_fields() {
    let eth0: IfName = "eth0".parse().unwrap();
    assert_eq!(input("239.1.1.1:5000@eth0").unwrap(), Input::new(ip("239.1.1.1"), 5000, eth0));
    assert_eq!(
        input("10.0.0.9>232.1.1.1:5000@eth0").unwrap(),
        Input { source: Some(ip("10.0.0.9")), ..Input::new(ip("232.1.1.1"), 5000, eth0) }
    );
    assert_eq!(input("[ff3e::1]:5000@eth0").unwrap(), Input::new(ip("ff3e::1"), 5000, eth0));
    assert_eq!(input("10.0.0.2:5000@eth0").unwrap(), Input::new(ip("10.0.0.2"), 5000, eth0));
}

#[test]
fn the_parts_of_an_output_land_in_their_fields() {
    let parsed =
        output("239.2.2.2:6000@eth1,ttl=keep,dscp=af41,source=10.0.0.1:7000,loop=on,rate=10Mbit").unwrap();
    let expected = Output {
        address: ip("239.2.2.2"),
        port: 6000,
        interface: Some("eth1".parse().unwrap()),
        ttl: Ttl::Keep,
        dscp: Dscp::Fixed(34),
        source: OutputSource::Fixed(ip("10.0.0.1"), Some(7000)),
        multicast_loop: true,
        rate: Some(Rate::BitsPerSecond(10_000_000)),
    };
    assert_eq!(parsed, expected);
    assert_eq!(output("10.100.0.2:6000").unwrap(), Output::new(ip("10.100.0.2"), 6000));
}

#[test]
fn an_input_has_one_canonical_form() {
    for (text, canonical) in [
        ("239.1.1.1:5000@eth0", "239.1.1.1:5000@eth0"),
        (" 10.0.0.9 > 232.1.1.1:5000@eth0 ", "10.0.0.9>232.1.1.1:5000@eth0"),
        ("2001:DB8::1>[ff3e:0::1]:05000@eth0", "[2001:db8::1]>[ff3e::1]:5000@eth0"),
        ("[2001:db8::1]>[ff3e::1]:5000@eth0", "[2001:db8::1]>[ff3e::1]:5000@eth0"),
        ("10.0.0.9>10.0.0.2:5000@eth0", "10.0.0.9>10.0.0.2:5000@eth0"),
        ("255.255.255.255:9@lo", "255.255.255.255:9@lo"),
        ("[fe80::1]:5000@eth0", "[fe80::1]:5000@eth0"),
    ] {
        assert_eq!(input(text).unwrap().to_string(), canonical);
    }
}

#[test]
fn an_output_has_one_canonical_form() {
    for (text, canonical) in [
        ("10.1.1.1:1,ttl=64,dscp=keep,source=interface,loop=off", "10.1.1.1:1"),
        ("10.1.1.1:1,rate=500pps,loop=on,dscp=46,ttl=1", "10.1.1.1:1,ttl=1,dscp=ef,loop=on,rate=500pps"),
        ("10.1.1.1:1, dscp = EF , ttl = 9", "10.1.1.1:1,ttl=9,dscp=ef"),
        ("10.1.1.1:1,dscp=be", "10.1.1.1:1,dscp=cs0"),
        ("10.1.1.1:1,dscp=default", "10.1.1.1:1,dscp=cs0"),
        ("10.1.1.1:1,dscp=63", "10.1.1.1:1,dscp=63"),
        ("10.1.1.1:1,dscp=44", "10.1.1.1:1,dscp=va"),
        ("10.1.1.1:1,source=keep", "10.1.1.1:1,source=keep"),
        ("10.1.1.1:1,source=10.0.0.1", "10.1.1.1:1,source=10.0.0.1"),
        ("[ff05::1]:1,source=2001:db8::1", "[ff05::1]:1,source=[2001:db8::1]"),
        ("[ff05::1]:1,source=[2001:db8::1]", "[ff05::1]:1,source=[2001:db8::1]"),
        ("[ff05::1]:1,source=[2001:db8::1]:6000", "[ff05::1]:1,source=[2001:db8::1]:6000"),
        ("255.255.255.255:9@eth0", "255.255.255.255:9@eth0"),
        ("[ff02::1]:9@eth0", "[ff02::1]:9@eth0"),
    ] {
        assert_eq!(output(text).unwrap().to_string(), canonical);
    }
}

#[test]
fn every_dscp_name_is_the_codepoint_of_its_rfc() {
    for class in 1..=4u8 {
        for drop in 1..=3u8 {
            // RFC 2597: class in the high three bits, drop precedence in the next two.
            let name = format!("af{class}{drop}");
            assert_eq!(name.parse::<Codepoint>().unwrap().value(), class << 3 | drop << 1, "{name}");
        }
    }
    for class in 0..=7u8 {
        assert_eq!(format!("cs{class}").parse::<Codepoint>().unwrap().value(), class << 3);
    }
    for (name, value) in [("ef", 46), ("va", 44), ("le", 1), ("be", 0), ("default", 0)] {
        assert_eq!(name.parse::<Codepoint>().unwrap().value(), value, "{name}");
    }
    for value in 0..64 {
        let codepoint = Codepoint::new(value).unwrap();
        assert_eq!(codepoint.to_string().parse::<Codepoint>().unwrap(), codepoint);
    }
    assert_eq!(Codepoint::new(64), None);
}

#[test]
fn what_is_wrong_with_an_input_is_said_with_what_to_write() {
    for (text, message) in [
        ("", "the endpoint is empty; write ADDRESS:PORT@INTERFACE, as in 239.1.1.1:5000@eth0"),
        (
            "239.1.1.1:5000",
            "input `239.1.1.1:5000` names no interface; append the one datagrams arrive on, as in 239.1.1.1:5000@eth0",
        ),
        (
            "239.1.1.1@eth0",
            "`239.1.1.1` has no port; write ADDRESS:PORT, as in 239.1.1.1:5000 or [ff3e::1]:5000",
        ),
        (
            "[ff3e::1]@eth0",
            "`[ff3e::1]` has no port; write ADDRESS:PORT, as in 239.1.1.1:5000 or [ff3e::1]:5000",
        ),
        ("239.1.1.1:65536@eth0", "port `65536` is not a number from 1 to 65535"),
        ("239.1.1.1:+5@eth0", "port `+5` is not a number from 1 to 65535"),
        ("239.1.1.1:@eth0", "port `` is not a number from 1 to 65535"),
        ("239.1.1.1:0@eth0", "the port is 0; write a number from 1 to 65535"),
        (
            "studio:5000@eth0",
            "address `studio` is not an IP address; write one as 239.1.1.1 or [ff3e::1], names are not looked up",
        ),
        (
            "ff3e::1:5000@eth0",
            "`ff3e::1:5000` looks like IPv6 without brackets; write [ADDRESS]:PORT, as in [ff3e::1]:5000",
        ),
        (
            "[fe80::1%eth0]:5000",
            "address `[fe80::1%eth0]` has a zone; write the interface after @, as in [fe80::1]:5000@eth0",
        ),
        (
            "[::ffff:10.0.0.1]:5000@eth0",
            "address ::ffff:10.0.0.1 is an IPv4 address written as IPv6; write 10.0.0.1",
        ),
        ("0.0.0.0:5000@eth0", "address 0.0.0.0 stands for any address; name one"),
        ("[::]:5000@eth0", "address :: stands for any address; name one"),
        ("0.0.0.0>232.1.1.1:5000@eth0", "source 0.0.0.0 stands for any address; name one"),
        (
            "239.9.9.9>232.1.1.1:5000@eth0",
            "source 239.9.9.9 is not the address of a host; a source must be unicast",
        ),
        (
            "255.255.255.255>232.1.1.1:5000@eth0",
            "source 255.255.255.255 is not the address of a host; a source must be unicast",
        ),
        (
            "10.0.0.9>[ff3e::1]:5000@eth0",
            "source 10.0.0.9 and address ff3e::1 are of different families; use IPv4 for both or IPv6 for both",
        ),
        (
            ">232.1.1.1:5000@eth0",
            "source `` is not an IP address; write one as 239.1.1.1 or [ff3e::1], names are not looked up",
        ),
        ("239.1.1.1:5000@", "`` is no interface name: it is empty; `ip link` lists the names"),
        (
            "239.1.1.1:5000@eth0 eth1",
            "`eth0 eth1` is no interface name: a name has no blanks or control characters; `ip link` lists the names",
        ),
        ("239.1.1.1:5000@eth0,ttl=4", "key `ttl` is not for inputs; only outputs take keys, remove it"),
        (
            "239.1.1.1:5000@eth0,",
            "`` after a comma is no key=value; write one as in ,ttl=16, or remove the comma",
        ),
    ] {
        assert_eq!(input(text).unwrap_err().to_string(), message, "for {text:?}");
    }
}

#[test]
fn what_is_wrong_with_an_output_is_said_with_what_to_write() {
    for (text, message) in [
        (
            "10.0.0.9>239.1.1.1:5000",
            "`10.0.0.9>` in front of an output; to set the source that receivers see, append ,source=10.0.0.9",
        ),
        (
            "239.1.1.1:5000,tll=4",
            "unknown key `tll` (did you mean `ttl`?); known are ttl, dscp, source, loop, rate",
        ),
        ("239.1.1.1:5000,port=4", "unknown key `port`; known are ttl, dscp, source, loop, rate"),
        ("239.1.1.1:5000,ttl=4,loop=on,ttl=4", "key `ttl` is given twice; remove one"),
        (
            "239.1.1.1:5000,ttl",
            "`ttl` after a comma is no key=value; write one as in ,ttl=16, or remove the comma",
        ),
        (
            "239.1.1.1:5000,ttl=",
            "`ttl=` after a comma is no key=value; write one as in ,ttl=16, or remove the comma",
        ),
        ("239.1.1.1:5000,ttl=0", "key `ttl`: `0` is not understood; write a number from 1 to 255, or keep"),
        (
            "239.1.1.1:5000,ttl=256",
            "key `ttl`: `256` is not understood; write a number from 1 to 255, or keep",
        ),
        (
            "239.1.1.1:5000,dscp=64",
            "key `dscp`: `64` is not understood; write keep, a number from 0 to 63, or a name such as ef, af41 or cs5",
        ),
        ("239.1.1.1:5000,loop=yes", "key `loop`: `yes` is not understood; write on or off"),
        (
            "239.1.1.1:5000,rate=10mbps",
            "key `rate`: `10mbps` is not understood; write bits per second as 8000000, 8M or 8Mbit, or datagrams per \
             second as 500pps or 10kpps",
        ),
        (
            "239.1.1.1:5000,source=eth0",
            "key `source`: `eth0` is not understood; write interface, keep, ADDRESS or ADDRESS:PORT with IPv6 in \
             brackets, as in [2001:db8::1]:6000",
        ),
        (
            "239.1.1.1:5000,source=2001:db8::1",
            "key `source`: address 2001:db8::1 and address 239.1.1.1 are of different families; use IPv4 for both or \
             IPv6 for both",
        ),
        (
            "239.1.1.1:5000,source=239.1.1.1",
            "key `source`: address 239.1.1.1 is not the address of a host; a source must be unicast",
        ),
        ("239.1.1.1:5000,source=10.0.0.1:0", "the port of key `source` is 0; write a number from 1 to 65535"),
        ("0.0.0.0:5000", "address 0.0.0.0 stands for any address; name one"),
        ("[fe80::1]:5000", "address fe80::1 is link-local; name its interface, as in [fe80::1]:5000@eth0"),
        ("[ff12::1]:5000", "address ff12::1 is link-local; name its interface, as in [ff12::1]:5000@eth0"),
    ] {
        assert_eq!(output(text).unwrap_err().to_string(), message, "for {text:?}");
    }
}

#[test]
fn an_endpoint_needs_no_interface_and_takes_no_keys() {
    let parsed: Endpoint = "10.0.0.9>232.1.1.1:5000".parse().unwrap();
    assert_eq!(parsed, Endpoint { source: Some(ip("10.0.0.9")), ..Endpoint::new(ip("232.1.1.1"), 5000) });
    assert_eq!("[ff05::1]:5@eth0".parse::<Endpoint>().unwrap().to_string(), "[ff05::1]:5@eth0");
    assert_eq!(
        "239.1.1.1:5000,ttl=4".parse::<Endpoint>().unwrap_err().to_string(),
        "key `ttl` is not for this endpoint; only outputs take keys, remove it"
    );
}

#[test]
fn a_source_specific_group_without_a_source_is_taken_and_noticed() {
    for (text, lacks) in [
        ("232.1.1.1:5000@eth0", true),
        ("10.0.0.9>232.1.1.1:5000@eth0", false),
        ("233.1.1.1:5000@eth0", false),
        ("[ff3e::1]:5000@eth0", true),
        ("[ff3e:20:2001:db8::1]:5000@eth0", false),
        ("[ff1e::1]:5000@eth0", false),
    ] {
        assert_eq!(input(text).unwrap().lacks_source(), lacks, "{text}");
    }
}

#[test]
fn a_value_made_by_hand_is_checked_as_a_parsed_one_is() {
    let good = output("239.1.1.1:5000").unwrap();
    for bad in [
        Output { ttl: Ttl::Fixed(0), ..good.clone() },
        Output { dscp: Dscp::Fixed(64), ..good.clone() },
        Output { rate: Some(Rate::PacketsPerSecond(0)), ..good.clone() },
        Output { port: 0, ..good.clone() },
        Output { source: OutputSource::Fixed(ip("::1"), None), ..good.clone() },
    ] {
        let error = bad.check().unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    assert_eq!(
        Output { dscp: Dscp::Fixed(64), ..good }.check().unwrap_err().to_string(),
        "key `dscp`: `64` is not understood; write keep, or a number from 0 to 63"
    );
}

#[test]
fn long_or_multi_line_text_does_not_spoil_the_message() {
    for text in ["a\nb:5@eth0", &"x".repeat(100_000), "10.0.0.1:5,\n=\n", "10.0.0.1:5@\u{2028}"] {
        for message in [input(text).unwrap_err().to_string(), output(text).unwrap_err().to_string()] {
            assert!(!message.contains(['\n', '\u{2028}']) && message.len() < 300, "{message}");
        }
    }
}
