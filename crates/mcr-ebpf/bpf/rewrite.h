/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Writes the headers of a copy into the frame, and puts back those that came. */
#pragma once
#include "frame.h"

struct macs {
	__u16 words[6]; /* Destination, then source. */
};

/* What the headers of one copy say. */
struct headers {
	__u32 source[4];
	__u32 address[4];
	__u16 source_port;
	__u16 port;
	__u16 ip_checksum;
	__u16 udp_checksum;
	__u8 hop_limit;
	__u8 traffic_class;
	__u16 pad;
};

static inline_always void write_udp(struct udp *udp, const struct headers *new)
{
	udp->source_port = new->source_port;
	udp->port = new->port;
	udp->checksum = new->udp_checksum;
}

/* Writes a copy's headers, whatever was written before. */
apiece int write_headers(struct __sk_buff *skb, struct frame *frame, const struct macs *macs, const struct headers *new)
{
	if (!frame || !macs || !new)
		return -1;
	int ipv6 = frame->key.ipv6;
	void *data = start_of(skb);
	if (!holds(skb, data, ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES))
		return -1;
	struct ethernet *ethernet = data;
	for (int i = 0; i < 6; i++)
		ethernet->macs[i] = macs->words[i];
	__u64 written = (__u32)new->source_port + new->port + new->udp_checksum;
	if (ipv6) {
		if (!holds(skb, data, ETHERNET_BYTES + IPV6_BYTES + UDP_BYTES))
			return -1;
		struct ipv6 *ip = data + ETHERNET_BYTES;
		write_udp((void *)(ip + 1), new);
		/* The traffic class lies across two bytes, the flow label behind it. */
		__u32 word = frame->version_class_flow & ~(__u32)0xf00f;
		word |= new->traffic_class >> 4 | (__u32)(new->traffic_class & 15) << 12;
		ip->version_class_flow = word;
		ip->hop_limit = new->hop_limit;
		copy_address(ip->source, new->source, 1);
		copy_address(ip->address, new->address, 1);
		written += (__u64)word + (__u32)new->hop_limit * 256 + sum_of(new->source, 1) + sum_of(new->address, 1);
	} else {
		apart();
		struct ipv4 *ip = data + ETHERNET_BYTES;
		write_udp((void *)(ip + 1), new);
		ip->traffic_class = new->traffic_class;
		ip->hop_limit = new->hop_limit;
		ip->checksum = new->ip_checksum;
		ip->source = new->source[0];
		ip->address = new->address[0];
	}
	if (unlikely(frame->complete)) {
		/* An IPv4 header sums to nothing, before and after. */
		bpf_csum_update(skb, (__u32)fold(written) + (__u16)~fold(frame->written));
		frame->written = written;
	}
	return 0;
}

/* The checksums of a copy, from those of the frame and the difference. */
apiece int sum_up(const struct frame *frame, struct headers *new)
{
	if (!frame || !new)
		return -1;
	int ipv6 = frame->key.ipv6;
	__u64 addresses = sum_of(new->source, ipv6) + sum_of(new->address, ipv6);
	if (!ipv6)
		new->ip_checksum = ~fold(frame->ip_sum + ((__u32)new->traffic_class << 8) + new->hop_limit + addresses);
	if (frame->partial) {
		new->udp_checksum = fold(frame->udp_sum + addresses);
	} else if (ipv6 || frame->udp_checksum != 0) {
		__u16 sum = ~fold(frame->udp_sum + addresses + new->source_port + new->port);
		/* RFC 768: 0 means that there is none. */
		new->udp_checksum = sum ? sum : 0xffff;
	}
	return 0;
}

/* What a copy's headers shall say. Returns 0, or a reason + 1. */
apiece int decide(const struct frame *frame, const struct output *output, struct headers *new)
{
	if (!frame || !output || !new)
		return OUTPUT_SEND_ERROR + 1;
	int ipv6 = frame->key.ipv6;
	if (unlikely(output->drop))
		return output->drop;
	if ((output->flags & OUTPUT_KEEP_HOP_LIMIT) && unlikely(frame->hop_limit <= 1))
		return OUTPUT_HOP_LIMIT + 1;
	if (unlikely(frame->ip_bytes > output->mtu))
		return OUTPUT_TOO_BIG + 1;
	if (output->flags & OUTPUT_KEEP_SOURCE) {
		copy_address(new->source, frame->key.source, ipv6);
		new->source_port = frame->source_port;
	} else {
		copy_address(new->source, output->source, ipv6);
		new->source_port = output->source_port;
	}
	copy_address(new->address, output->address, ipv6);
	new->port = output->port;
	new->hop_limit = output->flags & OUTPUT_KEEP_HOP_LIMIT ? frame->hop_limit - 1 : output->hop_limit;
	/* ECN is not copied: the relay ends a leg of the way, and its copies say nothing of the next. */
	new->traffic_class = output->flags & OUTPUT_KEEP_DSCP ? frame->traffic_class & ~3 : output->traffic_class;
	return 0;
}

/* Rewrites the frame for an output. Returns 0, or a reason + 1. */
static inline_always int rewrite(struct __sk_buff *skb, struct frame *frame, const struct output *output)
{
	struct headers new = {};
	int drop = decide(frame, output, &new);
	if (drop)
		return drop;
	sum_up(frame, &new);
	return write_headers(skb, frame, (const struct macs *)output->macs, &new) < 0 ? OUTPUT_SEND_ERROR + 1 : 0;
}

/* Puts the headers back as they came. */
apiece int restore(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame)
		return -1;
	struct headers old = {};
	copy_address(old.source, frame->key.source, frame->key.ipv6);
	copy_address(old.address, frame->key.address, frame->key.ipv6);
	old.source_port = frame->source_port;
	old.port = frame->key.port;
	old.ip_checksum = frame->ip_checksum;
	old.udp_checksum = frame->udp_checksum;
	old.hop_limit = frame->hop_limit;
	old.traffic_class = frame->traffic_class;
	return write_headers(skb, frame, (const struct macs *)frame->macs, &old);
}
