/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the program knows of the frame at hand, and how it reaches into it. */
#pragma once
#include "net.h"
#include "relay.h"

/* What the frame was when it came. Sums are one's complement sums of 16-bit words as they stand in memory (RFC 1624), unfolded. */
struct frame {
	struct key key;
	__u32 udp_offset;
	__u32 end; /* Of the IP datagram, in the frame. */
	__u32 ip_bytes; /* Of each datagram, to compare with an MTU. */
	__u32 datagrams;
	__u32 payload_bytes;
	__u32 base;
	__u16 macs[6];
	__u16 source_port;
	__u16 ip_checksum;
	__u16 udp_checksum;
	__u8 hop_limit;
	__u8 traffic_class; /* Of IPv6: as it came; its flow label below. */
	__u32 version_class_flow;
	__u8 partial; /* The checksum is the pseudo-header's alone; a device adds the rest (CHECKSUM_PARTIAL). */
	__u8 complete; /* The kernel holds the sum of the bytes, and must hear of each change (CHECKSUM_COMPLETE). */
	__u8 traces; /* That take note of it; bit n is the nth. */
	__u8 pad;
	__u32 complete_sum; /* That sum, from the IP header on. */
	__u32 pad_too;
	__u64 ip_sum; /* What the IPv4 header sums to without the fields that are written. */
	__u64 udp_sum; /* The same of the UDP checksum, pseudo-header included. */
	__u64 written; /* The sum of the written fields as they are in the frame now. */
};

static inline_always __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Subtracting is adding the complement. */
static inline_always __u64 minus(__u32 value)
{
	return (__u32)~value;
}

static inline_always __u64 sum_of(const __u32 *words, int ipv6)
{
	__u64 sum = words[0];
	if (ipv6)
		sum += (__u64)words[1] + words[2] + words[3];
	return sum;
}

static inline_always __u64 minus_all(const __u32 *words, int ipv6)
{
	__u64 sum = minus(words[0]);
	if (ipv6)
		sum += minus(words[1]) + minus(words[2]) + minus(words[3]);
	return sum;
}

static inline_always void copy_address(__u32 *to, const __u32 *from, int ipv6)
{
	to[0] = from[0];
	if (ipv6) {
		to[1] = from[1];
		to[2] = from[2];
		to[3] = from[3];
	}
}

/* Where the UDP header is when nothing stands before it that need not. */
static inline_always __u32 plain_bytes(const struct frame *frame)
{
	return ETHERNET_BYTES + (frame->key.ipv6 ? IPV6_BYTES : IPV4_BYTES);
}

/*
 * Functions that are verified by themselves, once, whatever they are called with: without them the verifier would take each of some
 * thousand ways through the program, for seconds. Of what they are given it knows only the types.
 */
#define apiece noinline

static inline_always void *start_of(struct __sk_buff *skb)
{
	return (void *)(long)skb->data;
}

/*
 * Whether so many bytes lie in the frame's linear part; asked again after every call that may move them. Pointers into the frame are
 * never compared with 0, which the verifier forbids without CAP_PERFMON.
 */
static inline_always int holds(struct __sk_buff *skb, void *data, __u32 bytes)
{
	return data + bytes <= (void *)(long)skb->data_end;
}
