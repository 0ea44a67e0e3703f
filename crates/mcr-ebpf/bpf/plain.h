/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Makes a datagram ready to be rewritten: nothing in it but plain headers and payload, its checksum verified and understood. */
#pragma once
#include "frame.h"

/* Takes out options and extension headers, and what is behind the datagram: padding of Ethernet, or of IP. */
apiece int strip(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame)
		return -1;
	__u32 plain = plain_bytes(frame), udp_bytes = UDP_BYTES + frame->payload_bytes;
	__u32 surplus = frame->udp_offset - plain;
	if (surplus > 0xfff)
		return -1;
	__u64 flags = skb->gso_size ? BPF_F_ADJ_ROOM_FIXED_GSO : 0;
	if (surplus && bpf_skb_adjust_room(skb, -(__s32)surplus, BPF_ADJ_ROOM_NET, flags) < 0)
		return -1;
	if (skb->len > plain + udp_bytes && bpf_skb_change_tail(skb, plain + udp_bytes, 0) < 0)
		return -1;
	frame->udp_offset = plain;
	void *data = start_of(skb);
	if (!holds(skb, data, ETHERNET_BYTES + IPV4_BYTES))
		return -1;
	if (frame->key.ipv6) {
		if (!holds(skb, data, ETHERNET_BYTES + IPV6_BYTES))
			return -1;
		struct ipv6 *ip = data + ETHERNET_BYTES;
		__u16 bytes = htons(udp_bytes);
		/* The next header is the first byte of its word. An IPv4 header sums to nothing, before and after. */
		__u32 change = (__u32)bytes + IP_UDP + (__u16)~ip->payload_bytes + (__u16)~(__u16)ip->next;
		ip->next = IP_UDP;
		ip->payload_bytes = bytes;
		bpf_csum_update(skb, change);
		return 0;
	}
	struct ipv4 *ip = data + ETHERNET_BYTES;
	ip->version_and_words = 0x45;
	ip->bytes = htons(IPV4_BYTES + udp_bytes);
	ip->checksum = 0;
	__u32 *words = (void *)ip;
	__u64 sum = 0;
	for (int i = 0; i < 5; i++)
		sum += words[i];
	ip->checksum = ~fold(sum);
	return 0;
}

/* Takes out a priority tag, options, extension headers and padding. */
apiece int make_plain(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame || (skb->vlan_present && bpf_skb_vlan_pop(skb) < 0))
		return -1;
	__u32 plain = plain_bytes(frame);
	if (likely(frame->udp_offset == plain && skb->len == plain + UDP_BYTES + frame->payload_bytes))
		return 0;
	return strip(skb, frame);
}

/* Finds out whether the checksum was changed, and puts it back. */
static inline_always int exchange_checksum(struct __sk_buff *skb, struct frame *frame, __u32 offset)
{
	void *data = start_of(skb);
	if (!holds(skb, data, offset + UDP_BYTES))
		return -1;
	struct udp *udp = data + offset;
	frame->partial = udp->checksum == frame->udp_checksum;
	udp->checksum = frame->udp_checksum;
	return 0;
}

/*
 * How the kernel treats the checksum, which no field tells. A replacement that is not the pseudo-header's leaves a partial checksum
 * alone (bpf_l4_csum_replace, inet_proto_csum_replace_by_diff); it is undone at once.
 */
apiece int learn_checksum(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame)
		return -1;
	__s64 sum = bpf_csum_update(skb, 0);
	frame->complete = sum >= 0;
	frame->complete_sum = sum;
	/* Any difference but 0 and its other form. */
	if (bpf_l4_csum_replace(skb, frame->udp_offset + 6, 0, 1, 0) < 0)
		return -1;
	if (frame->key.ipv6)
		return exchange_checksum(skb, frame, ETHERNET_BYTES + IPV6_BYTES);
	apart();
	return exchange_checksum(skb, frame, ETHERNET_BYTES + IPV4_BYTES);
}

/* Remembers what is going to be written over. */
apiece int remember(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame)
		return -1;
	int ipv6 = frame->key.ipv6;
	void *data = start_of(skb);
	if (!holds(skb, data, ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES))
		return -1;
	struct ethernet *ethernet = data;
	for (int i = 0; i < 6; i++)
		frame->macs[i] = ethernet->macs[i];
	__u64 written = 0;
	if (ipv6) {
		written = (__u64)frame->version_class_flow + (__u32)frame->hop_limit * 256;
	} else {
		apart();
		struct ipv4 *ip = data + ETHERNET_BYTES;
		frame->ip_checksum = ip->checksum;
		frame->ip_sum = (__u64)(__u16)~ip->checksum + minus(frame->traffic_class << 8) + minus(frame->hop_limit) +
				minus_all(frame->key.source, 0) + minus_all(frame->key.address, 0);
	}
	__u64 addresses = minus_all(frame->key.source, ipv6) + minus_all(frame->key.address, ipv6);
	if (learn_checksum(skb, frame) < 0)
		return -1;
	if (frame->partial)
		frame->udp_sum = frame->udp_checksum + addresses;
	else
		frame->udp_sum = (__u64)(__u16)~frame->udp_checksum + addresses + minus(frame->source_port) +
				 minus(frame->key.port);
	if (ipv6)
		written += sum_of(frame->key.source, 1) + sum_of(frame->key.address, 1);
	frame->written = written + frame->source_port + frame->key.port + frame->udp_checksum;
	return 0;
}

struct summing {
	struct __sk_buff *skb;
	__u32 offset;
	__u32 end;
	__s64 sum; /* Less than 0: it could not be read. */
};

/* Adds a part of the datagram: a step of bpf_loop. */
static long sum_part(__u32 index, struct summing *summing)
{
	__u64 part[16] = {};
	__u32 bytes = summing->end - summing->offset;
	(void)index;
	if (bytes > sizeof part)
		bytes = sizeof part;
	if (bytes == 0)
		return 1;
	if (bpf_skb_load_bytes(summing->skb, summing->offset, part, bytes) < 0) {
		summing->sum = -1;
		return 1;
	}
	summing->sum = bpf_csum_diff(0, 0, (__u32 *)part, sizeof part, summing->sum);
	summing->offset += bytes;
	return summing->sum < 0;
}

/*
 * Whether the UDP checksum is right, as far as a receiver would ask. The datagram is read only where neither the sender's host left
 * the checksum to a device, nor a device has verified it, nor one has summed the frame; a device's sum that disagrees proves nothing.
 */
apiece int is_udp_sum_right(struct __sk_buff *skb, const struct frame *frame)
{
	if (!frame)
		return 0;
	int ipv6 = frame->key.ipv6;
	/* RFC 768: there is none. RFC 8200, section 8.1: there must be one. */
	if (unlikely(frame->udp_checksum == 0))
		return !ipv6;
	if (skb->gso_size || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return 1;
	__u32 udp_bytes = UDP_BYTES + frame->payload_bytes;
	__u64 addresses = sum_of(frame->key.source, ipv6) + sum_of(frame->key.address, ipv6);
	__u64 pseudo = addresses + htons(IP_UDP) + htons(udp_bytes);
	if (frame->complete) {
		/* An IPv4 header sums to nothing. */
		__u64 header = addresses + frame->version_class_flow + htons(udp_bytes) + IP_UDP + frame->hop_limit * 256;
		__u64 others = ipv6 ? (__u16)~fold(header) : 0;
		if (likely(fold(pseudo + others + frame->complete_sum) == 0xffff))
			return 1;
	}
	struct summing summing = { .skb = skb, .offset = frame->udp_offset, .end = frame->udp_offset + udp_bytes };
	bpf_loop(0x10000 / 128, sum_part, &summing, 0);
	return summing.sum >= 0 && fold(pseudo + (__u32)summing.sum) == 0xffff;
}
