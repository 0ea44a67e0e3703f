/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The maps, and what lies in them: what src/layout.rs says in Rust. Addresses and ports are in network order; an IPv4 address is the
 * first word of an address, the others 0.
 */
#pragma once
#include "key.h"

/*
 * Where to go on: the place of a block in `blocks`, and the block's generation. One word, so that it is read and exchanged whole.
 * A place is not written again before every program that may have read it has ended.
 */
struct route {
	__u64 base_and_generation;
};

/* A block begins with this, then come its outputs, rule by rule. */
struct head {
	__u32 generation;
	__u32 count;
	__u32 ifindex; /* These three as in the key: a hash table's element can be another's by the time it is read. */
	__u32 address[4];
	__u16 port;
	__u8 flags;
	__u8 traces; /* Those of its outputs together. */
	__u32 input;
	__u32 then; /* The place of the block for what came at `then_ns` or later, if that is not 0. */
	__u64 then_ns; /* By the stamp of the frame. */
	__u32 unused[6];
};
enum {
	HEAD_LOCAL = 1, /* Something on this host wants the datagrams, too. */
	HEAD_SOURCED = 2, /* There are keys with sources: look there first. */
	HEAD_EMPTY = 4, /* No rule takes any source. */
	HEAD_ALL_KEEP = 8, /* Every output keeps the hop limit. */
};

struct output {
	__u32 ifindex;
	__u32 counter;
	__u32 rule;
	__u32 mtu;
	__u8 flags;
	__u8 drop; /* Every copy is dropped for this reason + 1; 0: none is. */
	__u8 hop_limit;
	__u8 traffic_class;
	__u16 source_port;
	__u16 port;
	__u16 macs[6]; /* Destination, then source, as they stand in the frame. */
	__u32 source[4];
	__u32 address[4];
	__u8 traces; /* Of its rule; bit n is the nth. */
	__u8 unused[3];
};
enum {
	OUTPUT_FIRST = 1, /* The first of its rule. */
	OUTPUT_KEEP_HOP_LIMIT = 2,
	OUTPUT_KEEP_DSCP = 4,
	OUTPUT_KEEP_SOURCE = 8,
};
union entry {
	struct head head;
	struct output output;
};
enum { BLOCKS_MAX = 16 }; /* One behind the other, by time. */
_Static_assert(sizeof(struct head) == 72 && sizeof(struct output) == 72 && sizeof(union entry) == 72, "layout.rs");

/* Per input, rule and output; user space sums over the CPUs. */
enum input_drop { INPUT_MALFORMED, INPUT_NOT_UDP, INPUT_FRAGMENT, INPUT_CHECKSUM, INPUT_HOP_LIMIT, INPUT_DROPS };
struct input_counts {
	__u64 frames;
	__u64 datagrams;
	__u64 bytes;
	__u64 matched;
	__u64 drops[INPUT_DROPS];
};
struct rule_counts {
	__u32 changes; /* Of the flow seen last, when they are done; a reader that finds the other number greater reads again. */
	__u32 last_port;
	__u64 datagrams;
	__u64 bytes;
	__u64 first_ns;
	__u64 last_ns;
	__u32 last_source[4]; /* The flow seen last, plus 1 in its port: a row of its datagrams is looked up once. */
	__u64 flows;
	__u64 told_datagrams; /* Of `datagrams` and `bytes`, what flows have been told; the rest is of the flow seen last. */
	__u64 told_bytes;
	__u64 overflow; /* Datagrams of flows that found no place. */
	__u32 sample_at; /* Of how many datagrams on (the low half of their number) the next sample of `timings` is taken. */
	__u32 changes_begun;
};
_Static_assert(sizeof(struct rule_counts) == 96, "layout.rs");

/* When datagrams of a rule came, whichever CPU saw them, by a clock that ticks every few milliseconds. */
struct arrivals {
	__u64 last_ns;
	__u64 gap_max_ns;
};

/* How much the time between arrivals of a rule varies: a sample is of three in a row, as one CPU sees them. */
struct timing {
	__u64 last_ns;
	__u64 interval_ns;
	__u64 jitter_16; /* Sixteen times the jitter (RFC 3550, A.8). */
	__u32 samples; /* Up to TIMING_SAMPLES. */
	__u32 step; /* Of a sample: how many of its three are there. */
};
enum { TIMING_SAMPLES = 64 };
_Static_assert(sizeof(struct arrivals) == 16 && sizeof(struct timing) == 32, "layout.rs");
enum output_drop {
	OUTPUT_SEND_ERROR,
	OUTPUT_QUEUE_FULL,
	OUTPUT_TOO_BIG,
	OUTPUT_NO_ROUTE,
	OUTPUT_NO_NEIGHBOUR,
	OUTPUT_HOP_LIMIT,
	OUTPUT_DROPS
};
struct output_counts {
	__u64 copies;
	__u64 bytes;
	__u64 drops[OUTPUT_DROPS];
	__u64 errno_and_count; /* The first errno seen, in the top 16 bits, and how often. */
};

struct flow {
	__u32 rule;
	__u32 port;
	__u32 source[4];
};

/* What a flow has been told of; added to by all CPUs. */
struct flow_counts {
	__u64 datagrams;
	__u64 bytes;
	__u64 first_ns;
	__u64 last_ns;
};

/* The sizes here are the least; the loader sets what is needed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct key);
	__type(value, struct route);
} routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, union entry);
} blocks SEC(".maps");

/* The addresses of the routes, for what has no ports: `key` with port, source and `sourced` 0, to an index of `inputs`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct key);
	__type(value, __u32);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct input_counts);
} inputs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rule_counts);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct arrivals);
} arrivals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct timing);
} timings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct output_counts);
} outputs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct flow);
	__type(value, struct flow_counts);
} flows SEC(".maps");
