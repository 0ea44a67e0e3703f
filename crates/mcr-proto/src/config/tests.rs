use super::super::{ConfigErrorKind, to_toml, warnings};
use super::*;

/// The sample of the design, which the documentation shows too.
const SAMPLE: &str = r#"workers = 2                       # default: one per core
[[rule]]
name = "studio-video"             # unique; an id is made by the daemon as well
input = "239.1.1.1:5000@eth0"
outputs = ["239.2.2.2:6000@eth1,ttl=16", "10.100.0.2:6000"]
class = "video"                   # optional: overrides the class that DSCP gives
datapath = "auto"                 # auto | kernel | packet | udp
[[class]]
name = "video"
dscp = ["af41", "ef"]
priority = 1
[[reflect]]
name = "bench-port"
interface = "eth2"
port = 3842
mode = "all"
"#;

fn refused(text: &str) -> String {
    parse(text, "mcr.toml").unwrap_err().to_string()
}

#[test]
fn the_sample_configuration_is_read() {
    let config = parse(SAMPLE, "mcr.toml").unwrap();
    assert_eq!(config.workers, Some(2));
    assert!(!config.allow_read);
    let rule = &config.rules[0];
    assert_eq!(rule.name.as_ref().unwrap().as_str(), "studio-video");
    assert_eq!(rule.input.to_string(), "239.1.1.1:5000@eth0");
    assert_eq!(rule.outputs[0].to_string(), "239.2.2.2:6000@eth1,ttl=16");
    assert_eq!(rule.class.as_deref(), Some("video"));
    assert!(rule.enabled);
    assert_eq!(config.classes[0].dscp.iter().map(ToString::to_string).collect::<Vec<_>>(), ["af41", "ef"]);
    assert_eq!((config.reflects[0].interface.as_str(), config.reflects[0].port), ("eth2", 3842));
}

#[test]
fn the_sample_is_written_in_canonical_form() {
    let canonical = r#"workers = 2

[[rule]]
name = "studio-video"
input = "239.1.1.1:5000@eth0"
outputs = ["239.2.2.2:6000@eth1,ttl=16", "10.100.0.2:6000"]
class = "video"

[[class]]
name = "video"
dscp = ["af41", "ef"]
priority = 1

[[reflect]]
name = "bench-port"
interface = "eth2"
"#;
    let config = parse(SAMPLE, "mcr.toml").unwrap();
    assert_eq!(to_toml(&config), canonical);
    assert_eq!(parse(canonical, "mcr.toml").unwrap(), config);
}

#[test]
fn an_empty_file_is_the_default_configuration() {
    assert_eq!(parse("", "mcr.toml").unwrap(), Config::default());
    assert_eq!(to_toml(&Config::default()), "");
}

#[test]
fn a_long_list_of_outputs_gets_a_line_each() {
    let outputs: Vec<String> = (1..=5).map(|host| format!("\"10.100.100.{host}:60000,ttl=16\"")).collect();
    let text = format!("[[rule]]\ninput = \"239.1.1.1:5000@eth0\"\noutputs = [{}]\n", outputs.join(", "));
    let config = parse(&text, "mcr.toml").unwrap();
    let written = to_toml(&config);
    assert_eq!(written.lines().nth(3), Some("    \"10.100.100.1:60000,ttl=16\","));
    assert_eq!(parse(&written, "mcr.toml").unwrap(), config);
}

#[test]
fn an_endpoint_may_be_a_table() {
    let tables = r#"
[[rule]]
input = { address = "232.1.1.1", port = 5000, interface = "eth0", source = "10.0.0.9" }
outputs = [
    { address = "239.2.2.2", port = 0x1770, interface = "eth1", ttl = 16, dscp = 34, loop = true, rate = 8_000_000 },
    { address = "ff05::1", port = 6000, ttl = "keep", dscp = "ef", source = "[2001:db8::1]:7", loop = "off", rate = "9pps" },
]
[[rule]]
outputs = ["10.0.0.1:1"]
[rule.input]
address = "239.1.1.1"
port = 5000
interface = "eth0"
"#;
    let strings = r#"
[[rule]]
input = "10.0.0.9>232.1.1.1:5000@eth0"
outputs = [
    "239.2.2.2:6000@eth1,ttl=16,dscp=af41,loop=on,rate=8M",
    "[ff05::1]:6000,ttl=keep,dscp=ef,source=[2001:db8::1]:7,rate=9pps",
]
[[rule]]
input = "239.1.1.1:5000@eth0"
outputs = ["10.0.0.1:1"]
"#;
    assert_eq!(parse(tables, "mcr.toml").unwrap(), parse(strings, "mcr.toml").unwrap());
}

/// Golden messages of what a single key can have wrong.
#[test]
fn an_error_names_file_line_and_key() {
    let rule = "[[rule]]\ninput = \"239.1.1.1:5000@eth0\"\n";
    let with = |line: &str| format!("{rule}outputs = [\"10.0.0.1:1\"]\n{line}\n");
    for (text, message) in [
        (
            "\nworker = 2".to_owned(),
            "mcr.toml:2: key `worker`: there is no such key (did you mean `workers`?); known here are workers, \
             others_may_read, http, rule, class, reflect",
        ),
        (
            "workers = 0".to_owned(),
            "mcr.toml:1: key `workers`: `0` is not understood; write a number from 1 to 128",
        ),
        (
            "workers = 129".to_owned(),
            "mcr.toml:1: key `workers`: `129` is not understood; write a number from 1 to 128",
        ),
        (
            "workers = \"2\"".to_owned(),
            "mcr.toml:1: key `workers`: this is a string; write a number from 1 to 128",
        ),
        (
            "others_may_read = 1".to_owned(),
            "mcr.toml:1: key `others_may_read`: this is an integer; write true or false",
        ),
        (
            "[rule]\ninput = \"239.1.1.1:5000@eth0\"".to_owned(),
            "mcr.toml:1: key `rule`: this is a table; write [[rule]] on a line of its own, and the keys of the rule \
             under it",
        ),
        (
            format!("{rule}output = [\"10.0.0.1:1\"]"),
            "mcr.toml:3: key `rule[0].output`: there is no such key (did you mean `outputs`?); known here are name, \
             input, outputs, class, datapath, enabled",
        ),
        (
            "# comment\n[[rule]]\noutputs = [\"10.0.0.1:1\"]".to_owned(),
            "mcr.toml:2: key `rule[0].input`: this key is missing; add input = \"239.1.1.1:5000@eth0\"",
        ),
        (
            format!("{}[[rule]]\n", with("")),
            "mcr.toml:5: key `rule[1].input`: this key is missing; add input = \"239.1.1.1:5000@eth0\"",
        ),
        (
            format!("{rule}outputs = \"10.0.0.1:1\""),
            "mcr.toml:3: key `rule[0].outputs`: this is a string; write a list, as in [\"10.100.0.2:6000\"]",
        ),
        (
            format!("{rule}outputs = [\n  \"10.0.0.1:1\",\n  \"10.0.0.1:1,tll=2\",\n]"),
            "mcr.toml:5: key `rule[0].outputs[1]`: unknown key `tll` (did you mean `ttl`?); known are ttl, dscp, source, \
             loop, rate",
        ),
        (
            format!("{rule}outputs = []"),
            "mcr.toml:3: key `rule[0].outputs`: the rule has no outputs; name at least one, as in \"10.100.0.2:6000\"",
        ),
        (
            format!("{rule}outputs = [\n\"10.0.0.1:1\",\n\"239.1.1.1:5000@eth0\"]"),
            "mcr.toml:5: key `rule[0].outputs[1]`: output 1 sends to 239.1.1.1:5000@eth0, which the input takes in \
             again: the rule would loop; change its address, port or interface",
        ),
        (
            "[[rule]]\ninput = \"239.1.1.1:5000\"\noutputs = []".to_owned(),
            "mcr.toml:2: key `rule[0].input`: input `239.1.1.1:5000` names no interface; append the one datagrams \
             arrive on, as in 239.1.1.1:5000@eth0",
        ),
        (
            "[[rule]]\noutputs = []\ninput = { address = \"239.1.1.1\",\n prt = 5 }".to_owned(),
            "mcr.toml:4: key `rule[0].input.prt`: there is no such key (did you mean `port`?); known here are address, \
             port, interface, source",
        ),
        (
            "[[rule]]\noutputs = []\ninput = { address = \"239.1.1.1\",\n port = \"x\" }".to_owned(),
            "mcr.toml:4: key `rule[0].input.port`: port `x` is not a number from 1 to 65535",
        ),
        (
            "[[rule]]\noutputs = []\ninput = { address = \"239.1.1.1\" }".to_owned(),
            "mcr.toml:3: key `rule[0].input`: key `port` is missing; add port = 5000",
        ),
        (
            with("name = \"a b\""),
            "mcr.toml:4: key `rule[0].name`: name `a b` contains ' '; use A-Z a-z 0-9 . _ - only",
        ),
        (
            with("datapath = \"xdp\""),
            "mcr.toml:4: key `rule[0].datapath`: `xdp` is no data path; write auto, kernel, packet or udp",
        ),
        (
            with("enabled = \"no\""),
            "mcr.toml:4: key `rule[0].enabled`: this is a string; write true or false",
        ),
        (
            with("class = \"video\""),
            "mcr.toml:4: key `rule[0].class`: class `video` is not defined; add a [[class]] with name = \"video\", or \
             remove this key",
        ),
        (
            with("class = \"vidoe\"\n[[class]]\nname = \"video\"\npriority = 1"),
            "mcr.toml:4: key `rule[0].class`: class `vidoe` is not defined (did you mean `video`?); add a [[class]] with \
             name = \"vidoe\", or remove this key",
        ),
        (
            "[[class]]\nname = \"video\"".to_owned(),
            "mcr.toml:1: key `class[0].priority`: this key is missing; add priority = 1",
        ),
        (
            "[[class]]\nname = \"a\"\npriority = 8".to_owned(),
            "mcr.toml:3: key `class[0].priority`: `8` is not understood; write a number from 0 to 7",
        ),
        (
            "[[class]]\nname = \"a\"\npriority = 1\ndscp = [\"keep\"]".to_owned(),
            "mcr.toml:4: key `class[0].dscp[0]`: key `dscp`: `keep` is not understood; write a number from 0 to 63, or a \
             name such as ef, af41 or cs5",
        ),
        (
            "[[class]]\nname = \"a\"\npriority = 1\ndepth = 0".to_owned(),
            "mcr.toml:4: key `class[0].depth`: `0` is not understood; write a number of datagrams from 1 to 65536",
        ),
        (
            "[[reflect]]\ninterface = \"eth0\"\nmode = \"some\"".to_owned(),
            "mcr.toml:3: key `reflect[0].mode`: `some` is not understood; write mac, mac-ip, all or auto",
        ),
        (
            "[[reflect]]\ninterface = \"eth 0\"".to_owned(),
            "mcr.toml:2: key `reflect[0].interface`: `eth 0` is no interface name: a name has no blanks or control \
             characters; `ip link` lists the names",
        ),
        (
            "[[reflect]]\ninterface = \"eth0\"\nport = 65536".to_owned(),
            "mcr.toml:3: key `reflect[0].port`: `65536` is not understood; write a number from 0 to 65535",
        ),
    ] {
        assert_eq!(refused(&text), message, "for\n{text}");
    }
}

#[test]
fn every_key_of_a_reflector_is_read_and_written() {
    let text = "[[reflect]]\ninterface = \"eth0\"\nport = 0\nmode = \"mac-ip\"\noui_filter = false\nallow_source = [\"192.0.2.0/24\", \
                \"2001:db8::/32\"]\nallow_vlan = [5, 7]\nstamp = 862\nstamp_key = \"00ff\"\n";
    let config = parse(text, "mcr.toml").unwrap();
    assert_eq!((config.reflects[0].port, config.reflects[0].allow_vlan.as_slice()), (0, &[5, 7][..]));
    assert_eq!(to_toml(&config), text);
    let message = refused("[[reflect]]\ninterface = \"eth0\"\nallow_vlan = [\"x\"]");
    assert!(message.starts_with("mcr.toml:3: key `reflect[0].allow_vlan`: "), "{message}");
}

#[test]
fn what_must_be_unique_names_both_lines() {
    let rule = |name: &str| {
        format!("[[rule]]\nname = \"{name}\"\ninput = \"239.1.1.1:5000@eth0\"\noutputs = [\"10.0.0.1:1\"]\n")
    };
    for (text, message) in [
        (
            format!("{}{}{}", rule("a"), rule("b"), rule("a")),
            "mcr.toml:10: key `rule[2].name`: name `a` is taken by line 2; names are unique, change one",
        ),
        (
            "[[class]]\nname = \"a\"\npriority = 1\n[[class]]\nname = \"a\"\npriority = 1".to_owned(),
            "mcr.toml:5: key `class[1].name`: name `a` is taken by line 2; names are unique, change one",
        ),
        (
            "[[class]]\nname = \"a\"\npriority = 1\ndscp = [46]\n[[class]]\nname = \"b\"\npriority = 1\ndscp = [\"ef\"]"
                .to_owned(),
            "mcr.toml:8: key `class[1].dscp[0]`: DSCP ef already belongs to class `a` by line 4; a DSCP has one class, \
             remove one",
        ),
        (
            "[[reflect]]\nname = \"a\"\ninterface = \"eth0\"\n[[reflect]]\nname = \"a\"\ninterface = \"eth1\"".to_owned(),
            "mcr.toml:5: key `reflect[1].name`: name `a` is taken by line 2; names are unique, change one",
        ),
        (
            "[[reflect]]\ninterface = \"eth0\"\n[[reflect]]\ninterface = \"eth0\"\nport = 3842".to_owned(),
            "mcr.toml:3: key `reflect[1]`: line 1 reflects on eth0 port 3842 already; change one",
        ),
    ] {
        assert_eq!(refused(&text), message, "for\n{text}");
    }
}

#[test]
fn text_that_is_not_toml_names_the_key_it_goes_wrong_at() {
    for (text, line, key) in [
        ("workers = ", 1, "workers"),
        ("workers", 1, "workers"),
        ("workers = 1\nworkers = 2", 2, "workers"),
        ("[[rule]]\nname = \"a\"\n[[rule]]\nname = \"b", 4, "rule[1].name"),
        ("[[rule]]\noutputs = [\n\"10.0.0.1:1\"\n\"10.0.0.1:2\"\n]", 4, "rule[0].outputs"),
        ("[[rule", 1, "rule[0]"),
        ("= 5", 1, ""),
        ("\u{1}", 1, "(none)"),
    ] {
        let error = parse(text, "mcr.toml").unwrap_err();
        assert!(matches!(*error.kind, ConfigErrorKind::Syntax { .. }), "{error}");
        assert_eq!((error.line, error.key.as_str()), (line, key), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn a_key_with_a_line_end_does_not_break_the_message() {
    let message = refused("\"a\\nb\" = 1");
    assert!(message.starts_with("mcr.toml:1: key `a\\nb`: there is no such key"), "{message}");
    assert!(!message.contains('\n'));
}

#[test]
fn what_is_unlikely_to_be_meant_is_said() {
    assert!(warnings(&parse(SAMPLE, "mcr.toml").unwrap()).is_empty());
    let nameless = "[[rule]]\ninput = \"232.1.1.1:5000@eth0\"\noutputs = [\"10.0.0.1:1\"]\n[[reflect]]\ninterface = \"lo\"";
    let lines = warnings(&parse(nameless, "mcr.toml").unwrap());
    assert!(lines[0].starts_with("rule[0]: input 232.1.1.1:5000@eth0: "), "{lines:?}");
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn the_keys_a_rule_is_read_from_are_those_it_is_written_with() {
    let text = "[[rule]]\nname = \"a\"\ninput = \"239.1.1.1:5000@eth0\"\noutputs = [\"10.0.0.1:1\"]\nclass = \"c\"\n\
                datapath = \"udp\"\nenabled = false\n[[class]]\nname = \"c\"\npriority = 1\n";
    let config = parse(text, "mcr.toml").unwrap();
    let json = serde_json::to_value(&config.rules[0]).unwrap();
    let written: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let mut known = RULE_KEYS.to_vec();
    known.sort_unstable();
    assert_eq!(written, known);
}

#[test]
fn what_is_served_over_http_is_read_and_its_mistakes_are_named() {
    let text = "[http]\nlisten = \"[::1]:9650\"\nnames = [\"relay1\", \"relay1.example.com\"]\ntoken_file = \"/etc/mcr/http.token\"\n";
    let config = parse(text, "mcr.toml").unwrap();
    let http = config.http.as_ref().unwrap();
    assert_eq!((http.listen, http.names.len()), ("[::1]:9650".parse().unwrap(), 2));
    assert_eq!(to_toml(&config), text);
    for (text, place) in [
        ("http = 9650\n", "mcr.toml:1: key `http`: this is an integer; write [http]"),
        ("[http]\nnames = []\n", "mcr.toml:1: key `http.listen`: this key is missing"),
        ("[http]\nlisten = \"9650\"\n", "mcr.toml:2: key `http.listen`: `9650` is not understood"),
        (
            "[http]\nlisten = \"[::1]:1\"\nnames = [\"a\", \"b:80\"]\n",
            "mcr.toml:3: key `http.names[1]`: `b:80`",
        ),
        (
            "[http]\nlisten = \"[::1]:1\"\ntoken_file = \"token\"\n",
            "mcr.toml:3: key `http.token_file`: `token`",
        ),
        (
            "[http]\nlisten = \"[::1]:1\"\ntoken = \"x\"\n",
            "mcr.toml:3: key `http.token`: there is no such key",
        ),
    ] {
        assert!(refused(text).starts_with(place), "{}", refused(text));
    }
}

#[test]
fn rules_that_feed_each_other_within_the_host_are_refused_where_they_stand() {
    let rule = |name: &str, from: u8, to: u8, more: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\ninput = \"239.1.1.{from}:5000@lo\"\noutputs = [\"239.1.1.{to}:5000@lo\"]\n{more}"
        )
    };
    let circle = format!("{}{}", rule("a", 1, 2, ""), rule("b", 2, 1, ""));
    assert_eq!(
        refused(&circle),
        "mcr.toml:4: key `rule[0].outputs`: the rule would loop: what it sends comes back to its input by b on this host; choose \
         another output, or remove what is between"
    );
    let off = format!("{}{}", rule("a", 1, 2, ""), rule("b", 2, 1, "enabled = false\n"));
    assert!(parse(&off, "mcr.toml").is_ok(), "a rule that is off feeds nothing");
}

#[test]
fn a_reflectors_contradictions_are_named_where_they_stand() {
    for (keys, place) in [
        (
            "mac_filter = false\noui_filter = false\nport = 0\n",
            "mcr.toml:5: key `reflect[0].port`: without MAC filter",
        ),
        (
            "mode = \"auto\"\nport = 0\noui_filter = false\n",
            "mcr.toml:3: key `reflect[0].mode`: mode auto takes a filter",
        ),
        ("answer_groups = true\n", "mcr.toml:3: key `reflect[0].answer_groups`:"),
        ("stamp = 862\necho = 862\n", "mcr.toml:4: key `reflect[0].echo`: port 862 is that of two services"),
        ("twamp = 3842\n", "mcr.toml:3: key `reflect[0].twamp`: port 3842 is that of two services"),
        ("stamp = 862\nstamp_authenticated = true\n", "mcr.toml:4: key `reflect[0].stamp_authenticated`:"),
        ("oam_level = 8\n", "mcr.toml:3: key `reflect[0].oam_level`:"),
        ("oam_mep = 8192\n", "mcr.toml:3: key `reflect[0].oam_mep`:"),
        ("latency_sample = 0\n", "mcr.toml:3: key `reflect[0].latency_sample`:"),
        ("queues = 2\nplatform = \"packet\"\n", "mcr.toml:3: key `reflect[0].queues`:"),
        ("allow_vlan = [1, 4096]\n", "mcr.toml:3: key `reflect[0].allow_vlan`: VLAN id 4096"),
        (
            "allow_source = [\"192.0.2.0/24\", \"x\"]\n",
            "mcr.toml:3: key `reflect[0].allow_source`: `[192.0.2.0/24, x]` is not",
        ),
    ] {
        let said = refused(&format!("[[reflect]]\ninterface = \"eth0\"\n{keys}"));
        assert!(said.starts_with(place), "{said}");
    }
    let known = "[[reflect]]\ninterface = \"eth0\"\nport = 0\nmac_filter = false\noui_filter = false\ni_know = true\n";
    assert!(parse(known, "mcr.toml").is_ok());
}

#[test]
fn rules_that_do_the_same_are_warned_of() {
    let rule =
        |name: &str| format!("[[rule]]\n{name}input = \"239.1.1.1:1@eth0\"\noutputs = [\"10.0.0.1:1\"]\n");
    let told = |text: &str| warnings(&parse(text, "mcr.toml").unwrap());
    let (a, b, unnamed) = (rule("name = \"a\"\n"), rule("name = \"b\"\n"), rule(""));
    assert_eq!(
        told(&format!("{a}{b}")),
        ["rule `b`: rule `a` takes in and sends the same, so each copy leaves twice; remove one"]
    );
    assert_eq!(
        told(&format!("{unnamed}{unnamed}")),
        ["rule[1]: it is the same as rule[0] and is left out; remove it, or name it"]
    );
    assert_eq!(told(&format!("{a}{b}enabled = false\n")), Vec::<String>::new());
    assert_eq!(told(&a), Vec::<String>::new());
    let many: String = (0..100).map(|number| rule(&format!("name = \"r{number}\"\n"))).collect();
    assert_eq!(
        (told(&many).len(), told(&many).pop()),
        (11, Some("89 further rules are the same as others".into()))
    );
}

#[test]
fn bytes_that_are_no_text_are_told_with_their_line() {
    let said =
        text(b"workers = 2\n[[rule]]\nname = \"caf\xe9\"\n".to_vec(), "mcr.toml").unwrap_err().to_string();
    assert!(said.starts_with("mcr.toml:3: key `rule[0].name`: this is not text"), "{said}");
    assert_eq!(text(b"workers = 2".to_vec(), "mcr.toml").unwrap(), "workers = 2");
}
