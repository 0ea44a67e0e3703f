/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* From bytes to addresses, ports and lengths, or the reason why not; the same as the packet path's parser says (mcr-parse). */
#pragma once
#include "frame.h"

/* RFC 8200, section 4.1, knows seven kinds and lets one of them come twice. */
enum { EXTENSION_HEADERS_MAX = 8 };

struct walk {
	struct __sk_buff *skb;
	__u32 offset;
	__u32 end;
	__u32 walked;
	__u8 next;
	__u8 pad[3];
	int failed;
};

static inline_always int is_extension(__u8 kind)
{
	return kind == IP_HOP_BY_HOP || kind == IP_ROUTING || kind == IP_FRAGMENT || kind == IP_AUTHENTICATION ||
	       kind == IP_DESTINATION_OPTIONS;
}

/* One IPv6 extension header; not 0 ends the walk. */
static long walk_one(__u32 index, struct walk *walk)
{
	__u8 kind = walk->next;
	__u8 bytes[8];
	(void)index;
	if (kind == IP_UDP)
		return 1;
	if (!is_extension(kind)) {
		walk->failed = -1 - INPUT_NOT_UDP;
		return 1;
	}
	walk->failed = -1 - INPUT_MALFORMED;
	if ((kind == IP_HOP_BY_HOP && walk->walked > 0) || walk->offset + sizeof bytes > walk->end ||
	    bpf_skb_load_bytes(walk->skb, walk->offset, bytes, sizeof bytes) < 0)
		return 1;
	walk->walked += 1;
	walk->next = bytes[0];
	if (kind == IP_FRAGMENT)
		walk->offset += 8;
	else if (kind == IP_AUTHENTICATION)
		walk->offset += (bytes[1] + 2) * 4;
	else
		walk->offset += (bytes[1] + 1) * 8;
	if (walk->offset > walk->end || (kind == IP_AUTHENTICATION && bytes[1] == 0) ||
	    (kind == IP_ROUTING && bytes[3] != 0))
		return 1;
	/* An atomic fragment (RFC 6946) is whole; of others only the type of what follows is known. */
	if (kind == IP_FRAGMENT && ((bytes[2] << 8 | bytes[3]) & 0xfff9) != 0) {
		if (walk->next == IP_UDP || is_extension(walk->next))
			walk->failed = -1 - INPUT_FRAGMENT;
		else
			walk->failed = -1 - INPUT_NOT_UDP;
		return 1;
	}
	walk->failed = 0;
	return 0;
}

/* Where the UDP header is behind IPv6 extension headers, or less than 0 and the reason. */
apiece int walk_extensions(struct __sk_buff *skb, __u32 next, __u32 end)
{
	struct walk walk = { .skb = skb, .offset = ETHERNET_BYTES + IPV6_BYTES, .end = end, .next = next };
	if (end > skb->len)
		return -1 - INPUT_MALFORMED;
	bpf_loop(EXTENSION_HEADERS_MAX + 1, walk_one, &walk, 0);
	if (walk.failed < 0)
		return walk.failed;
	if (walk.next != IP_UDP || walk.walked > EXTENSION_HEADERS_MAX || walk.offset > 0xffff)
		return -1 - INPUT_MALFORMED;
	return walk.offset;
}

/*
 * Has the IP header lie in the linear part, and the UDP header behind it if there is one. 0 if there is no such header; then the packet
 * path's filter does not take the frame either.
 */
static inline_always int reach(struct __sk_buff *skb, __u32 bytes)
{
	if (likely(holds(skb, start_of(skb), bytes + UDP_BYTES)))
		return 1;
	return bpf_skb_pull_data(skb, bytes + UDP_BYTES) >= 0 || bpf_skb_pull_data(skb, bytes) >= 0;
}

/* Reads the IP header. Returns the UDP header's offset; less than 0 and the reason; 0 for what is no UDP at all. */
apiece int read_ip(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame)
		return 0;
	if (skb->protocol == htons(ETH_IPV4)) {
		if (!reach(skb, ETHERNET_BYTES + IPV4_BYTES))
			return 0;
		void *data = start_of(skb);
		if (!holds(skb, data, ETHERNET_BYTES + IPV4_BYTES))
			return 0;
		struct ipv4 *ip = data + ETHERNET_BYTES;
		if (ip->protocol != IP_UDP)
			return 0;
		frame->key.address[0] = ip->address;
		frame->key.source[0] = ip->source;
		frame->hop_limit = ip->hop_limit;
		frame->traffic_class = ip->traffic_class;
		__u32 header_bytes = (ip->version_and_words & 15) * 4;
		frame->end = ETHERNET_BYTES + ntohs(ip->bytes);
		if (ip->version_and_words >> 4 != 4 || header_bytes < IPV4_BYTES)
			return -1 - INPUT_MALFORMED;
		if (ip->fragment & htons(0x3fff)) {
			int whole = frame->end <= skb->len && frame->end >= ETHERNET_BYTES + header_bytes;
			return whole ? -1 - INPUT_FRAGMENT : -1 - INPUT_MALFORMED;
		}
		return ETHERNET_BYTES + header_bytes;
	}
	if (skb->protocol != htons(ETH_IPV6) || !reach(skb, ETHERNET_BYTES + IPV6_BYTES))
		return 0;
	void *data = start_of(skb);
	if (!holds(skb, data, ETHERNET_BYTES + IPV6_BYTES))
		return 0;
	struct ipv6 *ip = data + ETHERNET_BYTES;
	__u8 next = ip->next;
	if (next != IP_UDP && !is_extension(next))
		return 0;
	frame->key.ipv6 = 1;
	copy_address(frame->key.address, ip->address, 1);
	copy_address(frame->key.source, ip->source, 1);
	frame->hop_limit = ip->hop_limit;
	frame->version_class_flow = ip->version_class_flow;
	frame->traffic_class = ntohs((__u16)ip->version_class_flow) >> 4;
	frame->end = ETHERNET_BYTES + IPV6_BYTES + ntohs(ip->payload_bytes);
	if ((ip->version_class_flow & 0xf0) != 0x60)
		return -1 - INPUT_MALFORMED;
	if (likely(next == IP_UDP))
		return ETHERNET_BYTES + IPV6_BYTES;
	return walk_extensions(skb, next, frame->end);
}

/* Whether the sum of an IPv4 header is right. */
apiece int is_ipv4_sum_right(struct __sk_buff *skb, __u32 header_bytes)
{
	__u32 words[15] = {};
	__u64 sum = 0;
	if (likely(header_bytes == IPV4_BYTES)) {
		if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, words, IPV4_BYTES) < 0)
			return 0;
	} else {
		if (header_bytes < IPV4_BYTES || header_bytes > sizeof words ||
		    bpf_skb_load_bytes(skb, ETHERNET_BYTES, words, header_bytes) < 0)
			return 0;
	}
	for (int i = 0; i < 15; i++)
		sum += words[i];
	return fold(sum) == 0xffff;
}

/*
 * How many datagrams a frame is, and how large. Less than 0 if a length is wrong; the UDP length of a superframe must say all there is,
 * because that is what is cut.
 */
apiece int measure(struct __sk_buff *skb, struct frame *frame, __u32 udp_bytes)
{
	if (!frame || frame->end > skb->len || frame->udp_offset + UDP_BYTES > frame->end || udp_bytes < UDP_BYTES ||
	    udp_bytes > frame->end - frame->udp_offset)
		return -1;
	__u32 segment = skb->gso_size;
	if (segment && unlikely(frame->udp_offset + udp_bytes != skb->len))
		return -1;
	frame->payload_bytes = udp_bytes - UDP_BYTES;
	if (segment == 0 || segment >= frame->payload_bytes)
		segment = frame->payload_bytes;
	else
		frame->datagrams = (frame->payload_bytes + segment - 1) / segment;
	frame->ip_bytes = plain_bytes(frame) - ETHERNET_BYTES + UDP_BYTES + segment;
	return 0;
}
