/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Counts what became of a datagram: in one place of the input, and in one of each output. */
#pragma once
#include "trace.h"

/* Counts what has an address of ours and cannot be relayed, and lets it go on. */
apiece int reject(struct __sk_buff *skb, struct frame *frame, __u32 reason)
{
	if (!frame)
		return NEXT;
	struct key key = frame->key;
	key.port = 0;
	key.sourced = 0;
	key.source[0] = key.source[1] = key.source[2] = key.source[3] = 0;
	__u32 *input = bpf_map_lookup_elem(&addresses, &key);
	if (!input)
		return NEXT;
	struct input_counts *counts = bpf_map_lookup_elem(&inputs, input);
	if (!counts)
		return NEXT;
	counts->frames += 1;
	counts->datagrams += 1;
	/* Written out: an index that the verifier does not know needs CAP_PERFMON. */
	_Pragma("unroll") for (__u32 i = 0; i < INPUT_DROPS; i++)
		counts->drops[i] += reason == i ? 1 : 0;
	frame->datagrams = 1;
	trace_drop(skb, frame, *input, reason);
	return NEXT;
}

/* Counts a datagram of a rule, and its flow if it is a new one. */
apiece int count_rule(const struct frame *frame, __u32 rule)
{
	if (!frame)
		return -1;
	struct rule_counts *counts = bpf_map_lookup_elem(&rules, &rule);
	if (!counts)
		return -1;
	__u64 now_ns = bpf_ktime_get_coarse_ns();
	if (unlikely(counts->datagrams == 0))
		counts->first_ns = now_ns;
	counts->last_ns = now_ns;
	counts->datagrams += frame->datagrams;
	counts->bytes += frame->payload_bytes;
	const __u32 *source = frame->key.source;
	if (likely(counts->last_port == frame->source_port + 1U && counts->last_source[0] == source[0] &&
		   counts->last_source[1] == source[1] && counts->last_source[2] == source[2] &&
		   counts->last_source[3] == source[3]))
		return 0;
	counts->last_port = frame->source_port + 1U;
	copy_address(counts->last_source, source, 1);
	struct flow flow = { .rule = rule, .port = frame->source_port };
	copy_address(flow.source, source, 1);
	__u8 here = 1;
	/* Looked up first, because that takes no lock. A full table counts no further. */
	if (!bpf_map_lookup_elem(&flows, &flow) && bpf_map_update_elem(&flows, &flow, &here, BPF_NOEXIST) == 0)
		counts->flows += 1;
	return 0;
}

static inline_always void count_drop(const struct frame *frame, struct output_counts *counts, __u32 reason)
{
	/* Written out: an index that the verifier does not know needs CAP_PERFMON. */
	_Pragma("unroll") for (__u32 i = 0; i < OUTPUT_DROPS; i++)
		counts->drops[i] += reason == i ? frame->datagrams : 0;
}

/* Counts what became of a copy: 0 or NET_XMIT_CN (2) is sent, NET_XMIT_DROP (1) a full queue, less an errno. */
apiece int count_sent(const struct frame *frame, __u32 index, long result)
{
	if (!frame)
		return -1;
	__u32 place = frame->base + 1 + index;
	union entry *entry = bpf_map_lookup_elem(&blocks, &place);
	if (!entry)
		return -1;
	struct output_counts *counts = bpf_map_lookup_elem(&outputs, &entry->output.counter);
	if (!counts)
		return -1;
	if (likely(result == 0 || result == 2)) {
		counts->copies += frame->datagrams;
		counts->bytes += frame->payload_bytes;
		if (unlikely(frame->traces))
			note_outcome(frame, index, 0, 0);
		return 0;
	}
	__u32 reason = result > 0 ? OUTPUT_QUEUE_FULL : OUTPUT_SEND_ERROR;
	count_drop(frame, counts, reason);
	if (unlikely(frame->traces))
		note_outcome(frame, index, reason + 1, result < 0 ? -result : 0);
	if (result < 0) {
		__u64 errno = (__u64)(-result) & 0xffff, seen = counts->errno_and_count;
		if (seen == 0)
			seen = errno << 48;
		if (seen >> 48 == errno)
			counts->errno_and_count = seen + frame->datagrams;
	}
	return 0;
}

/* Counts a copy that is not sent, to output `index` of the block. */
apiece int count_unsent(const struct frame *frame, __u32 index, __u32 counter, __u32 reason)
{
	struct output_counts *counts = bpf_map_lookup_elem(&outputs, &counter);
	if (!frame || !counts)
		return -1;
	count_drop(frame, counts, reason);
	if (unlikely(frame->traces))
		note_outcome(frame, index, reason + 1, 0);
	return 0;
}
