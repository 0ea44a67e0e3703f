//! Replays what fuzzing found worth keeping (`fuzz/seeds/TARGET`) in `tests/replay.rs`, so that the fuzz targets themselves, with
//! their oracles, are part of every test run, without libFuzzer and without a nightly compiler.
#![forbid(unsafe_code)]
