/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Counts what became of a datagram: in one place of the input, and in one of each output. */
#pragma once
#include "times.h"
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

/* Tells a flow of datagrams; without a place for it, the rule. Written as a whole by one CPU or another, so the later time stays. */
static inline_always void tell_flow(struct rule_counts *counts, struct flow_counts *flow, __u64 datagrams, __u64 bytes,
				    __u64 last_ns)
{
	if (!flow) {
		counts->overflow += datagrams;
		return;
	}
	__sync_fetch_and_add(&flow->datagrams, datagrams);
	__sync_fetch_and_add(&flow->bytes, bytes);
	flow->last_ns = last_ns;
}

/* The flow at hand is not the one before: tells both of their datagrams, and the rule of a new one. `bytes` and one frame are counted. */
apiece int change_flow(const struct frame *frame, struct rule_counts *counts, __u32 rule, __u64 before_ns)
{
	if (!frame || !counts)
		return -1;
	counts->changes_begun += 1;
	struct flow flow = { .rule = rule, .port = counts->last_port - 1 };
	copy_address(flow.source, counts->last_source, 1);
	__u64 datagrams = counts->datagrams - frame->datagrams - counts->told_datagrams;
	/* Its first ones it has been told of. */
	if (datagrams > 0)
		tell_flow(counts, bpf_map_lookup_elem(&flows, &flow), datagrams,
			  counts->bytes - frame->payload_bytes - counts->told_bytes, before_ns);
	flow.port = frame->source_port;
	copy_address(flow.source, frame->key.source, 1);
	/* Looked up first, because that takes no lock. */
	struct flow_counts *known = bpf_map_lookup_elem(&flows, &flow);
	if (unlikely(!known)) {
		struct flow_counts new = { .first_ns = counts->last_ns };
		if (bpf_map_update_elem(&flows, &flow, &new, BPF_NOEXIST) == 0)
			counts->flows += 1;
		known = bpf_map_lookup_elem(&flows, &flow);
	}
	tell_flow(counts, known, frame->datagrams, frame->payload_bytes, counts->last_ns);
	counts->told_datagrams = counts->datagrams;
	counts->told_bytes = counts->bytes;
	counts->last_port = frame->source_port + 1U;
	copy_address(counts->last_source, frame->key.source, 1);
	counts->changes += 1;
	return 0;
}

/* Counts a datagram of a rule. */
apiece int count_rule(const struct frame *frame, __u32 rule)
{
	if (!frame)
		return -1;
	struct rule_counts *counts = bpf_map_lookup_elem(&rules, &rule);
	if (!counts)
		return -1;
	__u64 now_ns = bpf_ktime_get_coarse_ns(), before_ns = counts->last_ns;
	if (unlikely(counts->datagrams == 0))
		counts->first_ns = now_ns;
	if (unlikely(now_ns != before_ns))
		note_arrival(rule, now_ns);
	counts->last_ns = now_ns;
	if (unlikely((__s32)((__u32)counts->datagrams - counts->sample_at) >= 0))
		sample_timing(counts, rule);
	counts->datagrams += frame->datagrams;
	counts->bytes += frame->payload_bytes;
	const __u32 *source = frame->key.source;
	if (likely(counts->last_port == frame->source_port + 1U && counts->last_source[0] == source[0] &&
		   counts->last_source[1] == source[1] && counts->last_source[2] == source[2] &&
		   counts->last_source[3] == source[3]))
		return 0;
	return change_flow(frame, counts, rule, before_ns);
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
