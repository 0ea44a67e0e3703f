//! Relaying in the kernel: the eBPF programs of a multicast relay, their loader and their maps.
//!
//! The programs are in C under `bpf/`, and so are the objects that clang makes of them (`cargo xtask bpf`).

/// An object as committed, aligned as the loader wants it.
#[allow(unused, reason = "the loader is under way")]
pub(crate) static RELAY: &[u8] = aya::include_bytes_aligned!("../bpf/relay.bpf.o");
