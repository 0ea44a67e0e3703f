//! What documents show: the examples of the control protocol are requests that are understood and results as they are, and every
//! configuration is one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use mcr_proto::{
    config,
    message::{Diagnosis, Explanation},
    rpc::{
        ConfigChecked, ConfigLoaded, ConfigPartTaken, ConfigSaved, ConfigShown, ErrorObject, Event,
        InterfaceList, LogShown, Pong, ReflectAdded, ReflectList, RuleAdded, RuleInfo, RuleList, Stats,
        Subscribed, TraceRecords, TraceStarted, Version, Welcome, WorkerList, method,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::request::{METHODS, parse_line};

const PROTOCOL: &str = include_str!("../../../../docs/protocol.md");

/// The section of each method: its heading's text, and what follows until the next heading.
fn sections() -> BTreeMap<&'static str, &'static str> {
    let sections = PROTOCOL.split("\n### ").skip(1);
    sections.filter_map(|section| section.split_once('\n')).collect()
}

/// The example lines of a section, without their arrows: true for what a client sends.
fn examples(section: &str) -> impl Iterator<Item = (bool, &str)> {
    section.lines().filter_map(|line| {
        let sent = line.strip_prefix("-> ").map(|line| (true, line));
        sent.or_else(|| line.strip_prefix("<- ").map(|line| (false, line)))
    })
}

/// What a value becomes that is read as a `T` and written again: fields that there are no more, or that are new, show.
fn again<T: DeserializeOwned + Serialize>(value: &Value) -> Value {
    let read: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"));
    serde_json::to_value(read).expect("plain data")
}

fn result_again(name: &str, value: &Value) -> Value {
    match name {
        method::HELLO => again::<Welcome>(value),
        method::RULE_ADD => again::<RuleAdded>(value),
        method::RULE_REMOVE | method::REFLECT_REMOVE | method::TRACE_STOP => json!({}),
        method::TRACE_START => again::<TraceStarted>(value),
        method::TRACE_GET => again::<TraceRecords>(value),
        method::RULE_LIST => again::<RuleList>(value),
        method::RULE_MOVE | method::RULE_ENABLE | method::RULE_DISABLE => again::<RuleInfo>(value),
        method::CONFIG_GET => again::<ConfigShown>(value),
        method::CONFIG_CHECK => again::<ConfigChecked>(value),
        method::CONFIG_PART => again::<ConfigPartTaken>(value),
        method::CONFIG_LOAD => again::<ConfigLoaded>(value),
        method::CONFIG_SAVE => again::<ConfigSaved>(value),
        method::STATS_GET => again::<Stats>(value),
        method::REFLECT_ADD => again::<ReflectAdded>(value),
        method::REFLECT_LIST => again::<ReflectList>(value),
        method::WORKER_LIST => again::<WorkerList>(value),
        method::INTERFACE_LIST => again::<InterfaceList>(value),
        method::LOG_GET | method::LOG_SET => again::<LogShown>(value),
        method::EVENT_SUBSCRIBE => again::<Subscribed>(value),
        method::DOCTOR_RUN => again::<Diagnosis>(value),
        method::RULE_WHY => again::<Explanation>(value),
        method::PING => again::<Pong>(value),
        method::VERSION => again::<Version>(value),
        _ => panic!("say here what {name} returns"),
    }
}

#[test]
fn every_method_has_a_section_that_says_what_right_it_takes_and_shows_it() {
    let sections = sections();
    for name in METHODS {
        let section = sections.get(name).unwrap_or_else(|| panic!("{name} is missing in docs/protocol.md"));
        let sent = examples(section).filter(|(sent, _)| *sent).map(|(_, line)| parse_line(line.as_bytes()));
        let calls: Vec<_> = sent.filter_map(|incoming| incoming.call.ok()).collect();
        let call = calls.iter().find(|call| call.method() == *name);
        let call = call.unwrap_or_else(|| panic!("{name} has no example that is understood"));
        assert_eq!(section.contains("*Changes something.*"), call.changes(), "{name}");
    }
}

#[test]
fn every_example_of_the_protocol_is_a_line_as_it_is_sent_today() {
    let mut asked = BTreeMap::new();
    let mut shown = BTreeSet::new();
    for (sent, line) in sections().values().flat_map(|section| examples(section)) {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let id = value["id"].to_string();
        if sent {
            let name = value["method"].as_str().expect("a method").to_owned();
            asked.insert(id, (name, parse_line(line.as_bytes()).call.err()));
        } else if value["method"] == "event" {
            assert_eq!(again::<Event>(&value["params"]), value["params"], "{line}");
        } else {
            let (name, refused) = &asked[&id];
            match (value.get("result"), refused) {
                (Some(result), None) => {
                    assert_eq!(result_again(name, result), *result, "{line}");
                    shown.insert(name.clone());
                }
                (Some(_), Some(error)) => panic!("{name} is refused: {}", error.message),
                (None, Some(error)) => {
                    assert_eq!(serde_json::to_value(error).expect("plain"), value["error"], "{line}")
                }
                (None, None) => assert_eq!(again::<ErrorObject>(&value["error"]), value["error"], "{line}"),
            }
        }
    }
    for name in METHODS {
        assert!(shown.contains(*name), "{name} has no example of its result");
    }
}

/// The documents for users.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut documents = vec![root.join("README.md")];
    for folder in ["docs", "docs/cookbook"] {
        let entries = fs::read_dir(root.join(folder)).expect("documents");
        documents.extend(entries.map(|entry| entry.expect("a document").path()));
    }
    documents.retain(|document| document.extension().is_some_and(|extension| extension == "md"));
    documents
}

#[test]
fn every_configuration_in_the_documents_is_one() {
    let mut count = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document");
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("\n```").next().unwrap_or_default();
            if let Err(error) = config::parse(block, "example") {
                panic!("{}: {error}\nin\n{block}", document.display());
            }
            count += 1;
        }
    }
    assert!(count >= 7, "{count} were found");
}
