// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Swallows, at tc ingress, what a packet socket has taken already and nothing else on this host wants: packet sockets of all protocols are
 * served before (ptype_all), so all this saves is the IP stack's work. What is in doubt goes on to the stack: unicast, fragments, options,
 * VLANs, headers that are not in one piece.
 *
 * Not here: what is wanted, and by whom (the supervisor). Nothing is counted: whoever took the frame before counts it.
 */
#include "key.h"
#include "net.h"

enum {
	SWALLOW_ANY = 1, /* Whoever sent it. */
	SWALLOW_SOURCED = 2, /* If there is a key with its source. */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct key);
	__type(value, __u32);
} swallowed SEC(".maps");

/* Fills the key of a group's plain datagram; 0 if it is none. */
static inline_always int read_group(struct __sk_buff *skb, struct key *key, __u32 *source)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (skb->protocol == htons(ETH_IPV4)) {
		struct ipv4 *ip = data + ETHERNET_BYTES;
		struct udp *udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return 0;
		if ((ip->address & 0xf0) != 0xe0 || ip->version_and_words != 0x45 || ip->protocol != IP_UDP ||
		    ip->fragment & htons(0x3fff))
			return 0;
		key->address[0] = ip->address;
		source[0] = ip->source;
		key->port = udp->port;
		apart();
		return 1;
	}
	if (skb->protocol != htons(ETH_IPV6))
		return 0;
	struct ipv6 *ip = data + ETHERNET_BYTES;
	struct udp *udp = (void *)(ip + 1);
	if ((void *)(udp + 1) > end)
		return 0;
	if ((ip->address[0] & 0xff) != 0xff || ip->next != IP_UDP)
		return 0;
	key->ipv6 = 1;
	for (int i = 0; i < 4; i++) {
		key->address[i] = ip->address[i];
		source[i] = ip->source[i];
	}
	key->port = udp->port;
	return 1;
}

SEC("classifier")
int swallow(struct __sk_buff *skb)
{
	/* What belongs to a VLAN has an interface of its own; an id of 0 is only a priority (IEEE 802.1Q, 9.6). */
	if (skb->vlan_present && (skb->vlan_tci & 0xfff))
		return NEXT;
	struct key key = { .ifindex = skb->ifindex };
	__u32 source[4] = {};
	if (!read_group(skb, &key, source))
		return NEXT;
	__u32 *whose = bpf_map_lookup_elem(&swallowed, &key);
	if (!whose)
		return NEXT;
	if (likely(*whose == SWALLOW_ANY))
		return SHOT;
	for (int i = 0; i < 4; i++)
		key.source[i] = source[i];
	key.sourced = 1;
	return bpf_map_lookup_elem(&swallowed, &key) ? SHOT : NEXT;
}

const char LICENSE[] SEC("license") = "MIT";
