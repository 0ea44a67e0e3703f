// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Relays datagrams at tc ingress: parse, look up, and for each output rewrite the headers in place and redirect a clone. The last
 * output gets the frame itself, unless something on this host wants it: then the headers are put back and it goes on.
 *
 * A superframe (GSO, GRO) stays whole; the output's device or the stack before it cuts it at its datagrams' true boundaries. What is
 * not for a rule goes on untouched and uncounted; what is, ends in exactly one counter of the input and of each output.
 *
 * Not here: which rules there are, next hops and memberships (the supervisor); translation between IPv4 and IPv6, rate caps (the
 * packet path has them).
 */
#include "count.h"
#include "parse.h"
#include "plain.h"
#include "rewrite.h"

struct stage {
	__u64 stamp_ns;
	__u32 base;
	__u32 pad;
};

/* Goes on to the next block, if the frame came when that was in force: a step of bpf_loop. */
static long pass_block(__u32 index, struct stage *stage)
{
	(void)index;
	__u32 base = stage->base;
	union entry *entry = bpf_map_lookup_elem(&blocks, &base);
	if (!entry || !entry->head.then_ns || stage->stamp_ns < entry->head.then_ns)
		return 1;
	stage->base = entry->head.then;
	return 0;
}

/*
 * Where rules change their ways at some time: goes on to the block that is in force for the frame at hand. Sockets that take what the others
 * do not see the same stamp. A frame without one came before anybody wanted stamps, so before that time.
 */
apiece int pass_blocks(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame)
		return 0;
	struct stage stage = { .stamp_ns = skb->tstamp, .base = frame->base };
	bpf_loop(BLOCKS_MAX - 1, pass_block, &stage, 0);
	frame->base = stage.base;
	return 0;
}

/* The block of a key, if there is one. */
static inline_always struct head *block_of(struct __sk_buff *skb, struct frame *frame)
{
	struct route *route = bpf_map_lookup_elem(&routes, &frame->key);
	if (!route)
		return 0;
	__u64 word = READ_ONCE(route->base_and_generation);
	__u32 base = word >> 32, generation = word;
	union entry *entry = bpf_map_lookup_elem(&blocks, &base);
	if (!entry)
		return 0;
	struct head *head = &entry->head;
	if (head->generation != generation || head->ifindex != frame->key.ifindex || head->port != frame->key.port ||
	    head->address[0] != frame->key.address[0] || head->address[1] != frame->key.address[1] ||
	    head->address[2] != frame->key.address[2] || head->address[3] != frame->key.address[3])
		return 0;
	frame->base = base;
	if (likely(!head->then_ns))
		return head;
	pass_blocks(skb, frame);
	base = frame->base;
	entry = bpf_map_lookup_elem(&blocks, &base);
	return entry ? &entry->head : 0;
}

/* Finds the block of a datagram: that of its source, if its source has one, or that of any source. 0 if there is none. */
apiece int find(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame)
		return 0;
	__u32 source[4] = { frame->key.source[0], frame->key.source[1], frame->key.source[2], frame->key.source[3] };
	frame->key.source[0] = frame->key.source[1] = frame->key.source[2] = frame->key.source[3] = 0;
	struct head *head = block_of(skb, frame);
	copy_address(frame->key.source, source, 1);
	if (!head)
		return 0;
	if (likely(!(head->flags & HEAD_SOURCED)))
		return 1;
	int empty = head->flags & HEAD_EMPTY;
	__u32 base = frame->base;
	frame->key.sourced = 1;
	struct head *of_source = block_of(skb, frame);
	frame->key.sourced = 0;
	if (of_source)
		return 1;
	frame->base = base;
	return !empty;
}

/* Prepares output `index` of the block. Gives its device, or 0 where nothing is to be sent. */
apiece int prepare(struct __sk_buff *skb, struct frame *frame, __u32 index)
{
	if (!frame)
		return 0;
	__u32 place = frame->base + 1 + index;
	union entry *entry = bpf_map_lookup_elem(&blocks, &place);
	if (!entry)
		return 0;
	struct output *output = &entry->output;
	if (output->flags & OUTPUT_FIRST)
		count_rule(frame, output->rule);
	int drop = rewrite(skb, frame, output);
	if (likely(drop == 0))
		return output->ifindex;
	count_unsent(frame, index, output->counter, drop - 1);
	return 0;
}

struct round {
	struct __sk_buff *skb;
	struct frame *frame;
};

/* Sends a clone to an output: a step of bpf_loop. */
static long send_clone(__u32 index, struct round *round)
{
	__u32 ifindex = prepare(round->skb, round->frame, index);
	if (ifindex)
		count_sent(round->frame, index, bpf_clone_redirect(round->skb, ifindex, 0));
	return 0;
}

/* Sends the frame to every output of its block. */
static inline_always int relay_to(struct __sk_buff *skb, struct frame *frame, __u32 count, int local)
{
	struct round round = { .skb = skb, .frame = frame };
	if (local) {
		bpf_loop(count, send_clone, &round, 0);
		restore(skb, frame);
		return NEXT;
	}
	if (count > 1)
		bpf_loop(count - 1, send_clone, &round, 0);
	__u32 last = count - 1;
	__u32 ifindex = prepare(skb, frame, last);
	if (!ifindex)
		return SHOT;
	/* What happens to it later, nobody tells: it counts as sent. */
	count_sent(frame, last, 0);
	return bpf_redirect(ifindex, 0);
}

/* Why a datagram that a rule wants is not relayed, or less than 0. What is, is ready to be rewritten. */
apiece int refuse(struct __sk_buff *skb, struct frame *frame, __u32 udp_bytes, __u32 all_keep)
{
	if (!frame)
		return INPUT_MALFORMED;
	frame->datagrams = 1;
	if (unlikely(measure(skb, frame, udp_bytes) < 0))
		return INPUT_MALFORMED;
	if (!frame->key.ipv6 && unlikely(!is_ipv4_sum_right(skb, (frame->udp_offset - ETHERNET_BYTES) & 0x3c)))
		return INPUT_CHECKSUM;
	if (unlikely(make_plain(skb, frame) < 0 || remember(skb, frame) < 0))
		return INPUT_MALFORMED;
	if (unlikely(!frame->partial) && unlikely(!is_udp_sum_right(skb, frame)))
		return INPUT_CHECKSUM;
	if (unlikely(frame->hop_limit <= 1 && all_keep))
		return INPUT_HOP_LIMIT;
	return -1;
}

SEC("classifier")
int relay(struct __sk_buff *skb)
{
	/* What belongs to a VLAN has an interface of its own; an id of 0 is only a priority (IEEE 802.1Q, 9.6). */
	if (skb->pkt_type == PACKET_OTHERHOST || (skb->vlan_present && (skb->vlan_tci & 0xfff)))
		return NEXT;
	struct frame frame = {};
	frame.key.ifindex = skb->ifindex;
	int udp_offset = read_ip(skb, &frame);
	if (udp_offset == 0)
		return NEXT;
	if (unlikely(udp_offset < 0))
		return reject(skb, &frame, -1 - udp_offset);
	frame.udp_offset = udp_offset;
	struct udp udp;
	if (unlikely(bpf_skb_load_bytes(skb, udp_offset, &udp, sizeof udp) < 0))
		return reject(skb, &frame, INPUT_MALFORMED);
	frame.key.port = udp.port;
	frame.source_port = udp.source_port;
	frame.udp_checksum = udp.checksum;
	if (!find(skb, &frame))
		return NEXT;
	__u32 base = frame.base;
	union entry *entry = bpf_map_lookup_elem(&blocks, &base);
	if (!entry)
		return NEXT;
	__u32 count = entry->head.count, flags = entry->head.flags;
	struct input_counts *counts = bpf_map_lookup_elem(&inputs, &entry->head.input);
	if (!counts || count == 0)
		return NEXT;
	counts->frames += 1;
	__u32 input = entry->head.input;
	if (unlikely(entry->head.traces))
		begin_trace(skb, &frame, entry->head.traces);
	int reason = refuse(skb, &frame, ntohs(udp.bytes), flags & HEAD_ALL_KEEP);
	counts->datagrams += frame.datagrams;
	counts->bytes += frame.payload_bytes;
	if (unlikely(reason >= 0)) {
		_Pragma("unroll") for (int i = 0; i < INPUT_DROPS; i++)
			counts->drops[i] += reason == i ? frame.datagrams : 0;
		trace_drop(skb, &frame, input, reason);
		return NEXT;
	}
	counts->matched += frame.datagrams;
	int verdict = relay_to(skb, &frame, count, flags & HEAD_LOCAL);
	if (unlikely(frame.traces))
		end_trace(skb, &frame, input, 0);
	return verdict;
}

const char LICENSE[] SEC("license") = "MIT";
