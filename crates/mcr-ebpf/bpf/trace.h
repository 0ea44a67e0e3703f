/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Shows single datagrams to whoever asked: each that is sampled goes into a ring, with the beginning of its frame as it came and what
 * became of its copies. Nothing here is called for rules without a trace, but for one byte of their blocks and of each output.
 *
 * A datagram that finds no room in the ring is missed and counted; nothing waits. What is under way is kept for each CPU, and a frame
 * that comes while another is (a device whose sending is receiving) is missed.
 */
#pragma once
#include "plain.h"

enum { TRACES_MAX = 8, SNAP_BYTES_MAX = 1920, OUTCOMES_MAX = 1024 };

/* One trace. User space writes it before any block names it, and from then on only reads. */
struct trace {
	__u64 seen; /* Datagrams it is about; of these, one in `one_in`, the first included, is sampled. */
	__u64 recorded; /* Of those, the ones in the ring; about `recorded_max` at most, for CPUs may go beyond it together. */
	__u64 missed; /* And the others. */
	__u64 recorded_max;
	__u32 one_in;
	__u32 snap_bytes;
};

/* What the ring holds: this, then its outcomes, then the beginning of its frame. */
struct traced {
	__u64 time_ns; /* Of the monotonic clock. */
	__u32 source[4];
	__u32 address[4];
	__u16 source_port;
	__u16 port; /* 0 if it could not be read. */
	__u32 input;
	__u32 bytes;
	__u32 frame_bytes;
	__u16 index; /* Its place in its superframe, */
	__u16 datagrams; /* and how many those are. */
	__u16 captured;
	__u16 outcomes;
	__u8 traces; /* Bit n: trace n. */
	__u8 drop; /* The reason + 1 why no rule got it. */
	__u8 ipv6;
	__u8 hop_limit;
	__u8 traffic_class;
	__u8 unused[3];
};
struct outcome {
	__u32 counter; /* Of the output. */
	__u32 after_ns;
	__u16 errno;
	__u8 traces;
	__u8 drop; /* The reason + 1 why the copy was not sent. */
};
_Static_assert(sizeof(struct trace) == 40 && sizeof(struct traced) == 72 && sizeof(struct outcome) == 12, "layout.rs");

/* The frame at hand. */
struct tracing {
	struct traced record;
	__u32 busy;
	__u16 id;
	__u16 unused;
	__u8 snap[SNAP_BYTES_MAX];
	struct outcome outcomes[OUTCOMES_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TRACES_MAX);
	__type(key, __u32);
	__type(value, struct trace);
} traces SEC(".maps");

/* The traces of what is dropped at an input, by its index. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} drop_traces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tracing);
} tracings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} trace_ring SEC(".maps");

static inline_always struct tracing *tracing_here(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&tracings, &zero);
}

/* Takes note of a frame as it came, for these traces. */
apiece int begin_trace(struct __sk_buff *skb, struct frame *frame, __u32 wanted)
{
	struct tracing *tracing = tracing_here();
	if (!frame || !tracing)
		return -1;
	for (__u32 i = 0; i < TRACES_MAX; i++) {
		__u32 place = i;
		struct trace *trace = bpf_map_lookup_elem(&traces, &place);
		if (!(wanted >> i & 1) || !trace || trace->recorded >= trace->recorded_max)
			continue;
		if (!tracing->busy) {
			frame->traces |= 1 << i;
			continue;
		}
		__sync_fetch_and_add(&trace->seen, 1);
		__sync_fetch_and_add(&trace->missed, 1);
	}
	if (!frame->traces)
		return 0;
	tracing->busy = 1;
	struct traced *record = &tracing->record;
	record->time_ns = bpf_ktime_get_ns();
	record->frame_bytes = skb->len;
	record->outcomes = 0;
	__u32 captured = skb->len < SNAP_BYTES_MAX ? skb->len : SNAP_BYTES_MAX;
	__asm__ volatile("" : "+r"(captured));
	if (captured == 0 || captured > SNAP_BYTES_MAX || bpf_skb_load_bytes(skb, 0, tracing->snap, captured) < 0)
		captured = 0;
	record->captured = captured;
	tracing->id = ((struct ipv4 *)(tracing->snap + ETHERNET_BYTES))->id;
	return 0;
}

/* Notes what became of the copy to an output: `drop` is a reason + 1, `errno` what the kernel said. */
apiece int note_outcome(const struct frame *frame, __u32 index, __u32 drop, __u32 errno)
{
	struct tracing *tracing = tracing_here();
	if (!frame || !tracing)
		return -1;
	__u32 place = frame->base + 1 + index;
	union entry *entry = bpf_map_lookup_elem(&blocks, &place);
	if (!entry || !(entry->output.traces & frame->traces))
		return 0;
	__u32 at = tracing->record.outcomes;
	if (at >= OUTCOMES_MAX)
		return 0;
	tracing->outcomes[at] = (struct outcome){
		.counter = entry->output.counter,
		.after_ns = bpf_ktime_get_ns() - tracing->record.time_ns,
		.errno = errno,
		.traces = entry->output.traces & frame->traces,
		.drop = drop,
	};
	tracing->record.outcomes = at + 1;
	return 0;
}

/* Decides which traces a datagram is for, and how many bytes of it they want: those, and the traces in the top byte. */
apiece int sample(__u32 wanted)
{
	__u32 taking = 0, bytes = 0;
	for (__u32 i = 0; i < TRACES_MAX; i++) {
		__u32 place = i;
		struct trace *trace = bpf_map_lookup_elem(&traces, &place);
		if (!(wanted >> i & 1) || !trace || trace->recorded >= trace->recorded_max || trace->one_in == 0)
			continue;
		if (__sync_fetch_and_add(&trace->seen, 1) % trace->one_in != 0)
			continue;
		taking |= 1 << i;
		if (trace->snap_bytes > bytes)
			bytes = trace->snap_bytes;
	}
	return taking << 16 | (bytes & 0xffff);
}

/* Counts a datagram as recorded by these traces, or as missed. */
apiece int count_traced(__u32 taking, __u32 is_missed)
{
	for (__u32 i = 0; i < TRACES_MAX; i++) {
		__u32 place = i;
		struct trace *trace = bpf_map_lookup_elem(&traces, &place);
		if (!(taking >> i & 1) || !trace)
			continue;
		/* Both: a pointer to one of two needs CAP_PERFMON. */
		__sync_fetch_and_add(&trace->missed, is_missed ? 1 : 0);
		__sync_fetch_and_add(&trace->recorded, is_missed ? 0 : 1);
	}
	return 0;
}

/* Puts the datagram at hand into the ring, with so many bytes of its frame. */
apiece int put_record(__u32 taking, __u32 bytes)
{
	struct tracing *tracing = tracing_here();
	if (!tracing)
		return -1;
	struct traced *record = &tracing->record;
	__u32 count = record->outcomes, captured = record->captured;
	if (captured > bytes)
		captured = bytes;
	__asm__ volatile("" : "+r"(count), "+r"(captured));
	if (count > OUTCOMES_MAX || captured > SNAP_BYTES_MAX)
		return -1;
	__u32 whole = record->captured, outcome_bytes = count * sizeof(struct outcome);
	record->traces = taking;
	record->captured = captured;
	struct dynptr room;
	int has_room =
		bpf_ringbuf_reserve_dynptr(&trace_ring, sizeof *record + outcome_bytes + captured, 0, &room) == 0;
	if (has_room) {
		bpf_dynptr_write(&room, 0, record, sizeof *record, 0);
		bpf_dynptr_write(&room, sizeof *record, tracing->outcomes, outcome_bytes, 0);
		bpf_dynptr_write(&room, sizeof *record + outcome_bytes, tracing->snap, captured, 0);
	}
	/* Without room this does nothing, but the verifier wants it. User space looks by itself. */
	bpf_ringbuf_submit_dynptr(&room, BPF_RB_NO_WAKEUP);
	record->captured = whole;
	return count_traced(taking, !has_room);
}

/*
 * Makes the headers of a superframe those of one of its datagrams, as segmentation does (__udp_gso_segment, inet_gso_segment), and has
 * its payload follow them. `offset` is where that lies in the frame.
 */
apiece int cut_out(struct __sk_buff *skb, const struct frame *frame, __u32 offset, __u32 bytes)
{
	struct tracing *tracing = tracing_here();
	if (!frame || !tracing)
		return -1;
	int ipv6 = frame->key.ipv6;
	__u32 udp_bytes = UDP_BYTES + bytes, room = SNAP_BYTES_MAX - ETHERNET_BYTES - IPV6_BYTES - UDP_BYTES;
	struct summing summing = { .skb = skb, .offset = offset, .end = offset + bytes };
	bpf_loop(0x10000 / 128, sum_part, &summing, 0);
	__u64 sum = sum_of(frame->key.source, ipv6) + sum_of(frame->key.address, ipv6) + htons(IP_UDP) +
		    2 * (__u64)htons(udp_bytes) + frame->source_port + frame->key.port + (__u32)summing.sum;
	__u16 checksum = ~fold(sum);
	if (frame->udp_checksum == 0)
		checksum = 0;
	else if (checksum == 0)
		checksum = 0xffff;
	struct udp udp = { frame->source_port, frame->key.port, htons(udp_bytes), checksum };
	__u32 part = bytes < room ? bytes : room;
	__asm__ volatile("" : "+r"(part));
	if (part == 0 || part > room)
		part = 0;
	if (ipv6) {
		struct ipv6 *ip = (void *)(tracing->snap + ETHERNET_BYTES);
		ip->payload_bytes = udp.bytes;
		*(struct udp *)(ip + 1) = udp;
		if (part > 0 && bpf_skb_load_bytes(skb, offset, (void *)(ip + 1) + UDP_BYTES, part) < 0)
			return -1;
	} else {
		struct ipv4 *ip = (void *)(tracing->snap + ETHERNET_BYTES);
		ip->bytes = htons(IPV4_BYTES + udp_bytes);
		ip->id = htons(ntohs(tracing->id) + tracing->record.index);
		ip->checksum = 0;
		__u16 *words = (void *)ip;
		__u64 header = 0;
		for (int i = 0; i < IPV4_BYTES / 2; i++)
			header += words[i];
		ip->checksum = ~fold(header);
		*(struct udp *)(ip + 1) = udp;
		if (part > 0 && bpf_skb_load_bytes(skb, offset, (void *)(ip + 1) + UDP_BYTES, part) < 0)
			return -1;
	}
	tracing->record.frame_bytes = plain_bytes(frame) + udp_bytes;
	tracing->record.captured = plain_bytes(frame) + UDP_BYTES + part;
	return 0;
}

struct cutting {
	struct __sk_buff *skb;
	const struct frame *frame;
	__u32 segment;
	__u32 is_plain; /* There is nothing but plain headers, so that datagrams can be cut out. */
};

/* Takes one datagram of the frame to its traces: a step of bpf_loop. */
static long trace_one(__u32 index, struct cutting *cutting)
{
	const struct frame *frame = cutting->frame;
	struct tracing *tracing = tracing_here();
	if (!tracing)
		return 1;
	__u32 taking = sample(frame->traces), from = index * cutting->segment;
	if (!(taking >> 16))
		return 0;
	tracing->record.index = index;
	if (frame->datagrams > 1 && from < frame->payload_bytes) {
		__u32 bytes = frame->payload_bytes - from;
		if (bytes > cutting->segment)
			bytes = cutting->segment;
		tracing->record.bytes = bytes;
		if (cutting->is_plain)
			cut_out(cutting->skb, frame, frame->udp_offset + UDP_BYTES + from, bytes);
	}
	put_record(taking >> 16, taking & 0xffff);
	return 0;
}

/* All is known of a frame: `drop` is the reason + 1 why no rule got it. The frame still has its payload, whatever its headers say now. */
apiece int end_trace(struct __sk_buff *skb, struct frame *frame, __u32 input, __u32 drop)
{
	struct tracing *tracing = tracing_here();
	if (!frame || !tracing)
		return -1;
	struct traced *record = &tracing->record;
	copy_address(record->source, frame->key.source, 1);
	copy_address(record->address, frame->key.address, 1);
	record->source_port = frame->source_port;
	record->port = frame->key.port;
	record->input = input;
	record->bytes = frame->payload_bytes;
	record->index = 0;
	record->datagrams = frame->datagrams;
	record->drop = drop;
	record->ipv6 = frame->key.ipv6;
	record->hop_limit = frame->hop_limit;
	record->traffic_class = frame->traffic_class;
	struct cutting cutting = { .skb = skb, .frame = frame, .segment = skb->gso_size };
	/* What is not plain any more, or never was, is longer than what is in the frame now. */
	cutting.is_plain = record->frame_bytes == plain_bytes(frame) + UDP_BYTES + frame->payload_bytes;
	bpf_loop(frame->datagrams, trace_one, &cutting, 0);
	frame->traces = 0;
	tracing->busy = 0;
	return 0;
}

/* As above for a datagram that is dropped at its input; traces of an input's drops may want it, too. */
apiece int trace_drop(struct __sk_buff *skb, struct frame *frame, __u32 input, __u32 reason)
{
	__u32 *wanted = bpf_map_lookup_elem(&drop_traces, &input);
	if (!frame || !wanted)
		return -1;
	if (frame->traces)
		frame->traces |= *wanted;
	else if (likely(*wanted == 0))
		return 0;
	else
		begin_trace(skb, frame, *wanted);
	return frame->traces ? end_trace(skb, frame, input, reason + 1) : 0;
}
