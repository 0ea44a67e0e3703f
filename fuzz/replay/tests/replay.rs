//! Each fuzz target, run on its seeds and on inputs made of them.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_attributes,
    clippy::duplicate_mod,
    reason = "the targets are written to be programs of their own"
)]

use std::{fs, path::PathBuf};

// The targets as they are fuzzed, with a stand-in for libfuzzer-sys.
#[path = "../../fuzz_targets/arrival.rs"]
mod arrival;
#[path = "../../fuzz_targets/buffer_pool.rs"]
mod buffer_pool;
#[path = "../../fuzz_targets/config.rs"]
mod config;
#[path = "../../fuzz_targets/control_line.rs"]
mod control_line;
#[path = "../../fuzz_targets/control_messages.rs"]
mod control_messages;
#[path = "../../fuzz_targets/endpoint.rs"]
mod endpoint;
#[path = "../../fuzz_targets/fd_manifest.rs"]
mod fd_manifest;
#[path = "../../fuzz_targets/gen_payload.rs"]
mod gen_payload;
#[path = "../../fuzz_targets/messages.rs"]
mod messages;
#[path = "../../fuzz_targets/netlink_message.rs"]
mod netlink_message;
#[path = "../../fuzz_targets/parse_frame.rs"]
mod parse_frame;
#[path = "../../fuzz_targets/plan_compiler.rs"]
mod plan_compiler;
#[path = "../../fuzz_targets/reflect.rs"]
mod reflect;
#[path = "../../fuzz_targets/relay_engine.rs"]
mod relay_engine;
#[path = "../../fuzz_targets/rewrite_frame.rs"]
mod rewrite_frame;
#[path = "../../fuzz_targets/socket_control.rs"]
mod socket_control;
#[path = "../../fuzz_targets/xdp_rings.rs"]
mod xdp_rings;

/// A target's name, and what runs it on one input.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("arrival", arrival::run),
    ("buffer_pool", buffer_pool::run),
    ("config", config::run),
    ("control_line", control_line::run),
    ("control_messages", control_messages::run),
    ("endpoint", endpoint::run),
    ("fd_manifest", fd_manifest::run),
    ("gen_payload", gen_payload::run),
    ("messages", messages::run),
    ("netlink_message", netlink_message::run),
    ("parse_frame", parse_frame::run),
    ("plan_compiler", plan_compiler::run),
    ("reflect", reflect::run),
    ("relay_engine", relay_engine::run),
    ("rewrite_frame", rewrite_frame::run),
    ("socket_control", socket_control::run),
    ("xdp_rings", xdp_rings::run),
];

fn folder(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", path].iter().collect()
}

#[test]
fn every_seed_passes_its_target_and_so_does_every_beginning_of_it() {
    for (name, run) in TARGETS {
        let seeds = fs::read_dir(folder("seeds").join(name))
            .unwrap_or_else(|error| panic!("seeds of {name}: {error}"));
        let mut count = 0;
        for entry in seeds {
            let seed = fs::read(entry.expect("an entry").path()).expect("a seed");
            run(&seed);
            // Cut short at a few places: what a datagram or a line that ends early looks like.
            for parts in 1..8 {
                run(&seed[..seed.len() * parts / 8]);
            }
            count += 1;
        }
        assert!(count > 0, "{name} has no seeds");
    }
}

#[test]
fn every_target_is_replayed() {
    let mut files: Vec<_> = fs::read_dir(folder("fuzz_targets"))
        .expect("the targets")
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    files.sort();
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, files);
}
