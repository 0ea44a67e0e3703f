//! The parser, the rewriter and the builder against etherparse and against checksums made from scratch.

#![allow(clippy::unwrap_used, reason = "what a test cannot make, it cannot test")]

mod build;
mod frames;
mod oracle;
mod parse;
mod properties;
mod rewrite;
