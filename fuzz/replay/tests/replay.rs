//! Each fuzz target, run on its seeds and on inputs made of them.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_attributes,
    clippy::duplicate_mod,
    reason = "the targets are written to be programs of their own"
)]

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

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

/// How long each target is run on inputs made at random, and what they are made from, if the environment does not say.
const SECONDS: f64 = 1.5;
const SEED: u64 = 1;
/// Longer inputs say nothing that shorter ones do not.
const INPUT_BYTES_MAX: usize = 8192;
/// Where a count or a length goes wrong.
const EDGES: [u32; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0xffff_ffff];

fn seeds_of(name: &str) -> Vec<Vec<u8>> {
    let entries =
        fs::read_dir(folder("seeds").join(name)).unwrap_or_else(|error| panic!("seeds of {name}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    // The order of a folder is anything.
    paths.sort();
    let seeds: Vec<_> = paths.iter().map(|path| fs::read(path).expect("a seed")).collect();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    seeds
}

/// An input made of one or two seeds by a few changes.
fn changed(random: &mut fastrand::Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[random.usize(..seeds.len())].clone();
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(..=input.len());
        let bytes = random.usize(..=(input.len() - at).min(64));
        match random.u8(..8) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..at + bytes)),
            2 => {
                let again = input[at..at + bytes].to_vec();
                drop(input.splice(at..at, again));
            }
            3 => drop(input.splice(at..at, (0..bytes).map(|_| random.u8(..)).collect::<Vec<_>>())),
            4 => {
                let other = &seeds[random.usize(..seeds.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.usize(..=other.len())..]);
            }
            5 => {
                let edge = EDGES[random.usize(..EDGES.len())];
                let edge = if random.bool() { edge.to_be_bytes() } else { edge.to_le_bytes() };
                let from = random.usize(..4).min(bytes);
                input[at..at + bytes.min(4 - from)].copy_from_slice(&edge[from..from + bytes.min(4 - from)]);
            }
            6 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.u8(..)),
            _ => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.u8(..8)),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn folder(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", path].iter().collect()
}

#[test]
fn every_seed_passes_its_target_and_so_does_every_beginning_of_it() {
    for (name, run) in TARGETS {
        for seed in seeds_of(name) {
            run(&seed);
            // Cut short at a few places: what a datagram or a line that ends early looks like.
            for parts in 1..8 {
                run(&seed[..seed.len() * parts / 8]);
            }
        }
    }
}

/// `MCR_FUZZ_SECONDS=30 MCR_SEED=7 cargo test -p mcr-fuzz-replay` does more of it.
#[test]
fn every_target_passes_on_inputs_made_of_its_seeds_at_random() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<f64>().expect("a number"));
    let time = Duration::from_secs_f64(number("MCR_FUZZ_SECONDS").unwrap_or(SECONDS));
    let seed = number("MCR_SEED").map_or(SEED, |seed| seed as u64);
    for (name, run) in TARGETS {
        let (seeds, mut random) = (seeds_of(name), fastrand::Rng::with_seed(seed));
        let (started, mut count) = (Instant::now(), 0u64);
        while started.elapsed() < time {
            let input = changed(&mut random, &seeds);
            let passed = catch_unwind(AssertUnwindSafe(|| run(&input))).is_ok();
            let hex = || input.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert!(passed, "{name}, input {count} of seed {seed}: {}", hex());
            count += 1;
        }
        assert!(count > 0, "{name} had no time");
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
