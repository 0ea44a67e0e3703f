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
#include "relay.h"

enum {
	ETHERNET_BYTES = 14,
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	UDP_BYTES = 8,
	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86dd,
	UDP = 17,
	HOP_BY_HOP = 0,
	ROUTING = 43,
	FRAGMENT = 44,
	AUTHENTICATION = 51,
	DESTINATION_OPTIONS = 60,
	/* As the packet path's parser: RFC 8200, section 4.1, knows seven kinds and lets one of them come twice. */
	EXTENSION_HEADERS_MAX = 8,
};

struct ethernet {
	__u16 macs[6];
	__u16 protocol;
} __attribute__((packed, aligned(2)));

struct ipv4 {
	__u8 version_and_words;
	__u8 traffic_class;
	__u16 bytes;
	__u16 id;
	__u16 fragment;
	__u8 hop_limit;
	__u8 protocol;
	__u16 checksum;
	__u32 source;
	__u32 address;
} __attribute__((packed, aligned(2)));

struct ipv6 {
	__u32 version_class_flow;
	__u16 payload_bytes;
	__u8 next;
	__u8 hop_limit;
	__u32 source[4];
	__u32 address[4];
} __attribute__((packed, aligned(2)));

struct udp {
	__u16 source_port;
	__u16 port;
	__u16 bytes;
	__u16 checksum;
} __attribute__((packed, aligned(2)));

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
	__u16 pad;
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

/*
 * Functions that are verified by themselves, once, whatever they are called with: without them the verifier would take each of some
 * thousand ways through the program, for seconds. Of what they are given it knows only the types.
 */
#define apiece __attribute__((noinline))

/* Keeps the compiler from making one path of two that differ in an offset, which the verifier could not follow. */
#define apart() __asm__ volatile("" ::: "memory")

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

/* Counts what has an address of ours and cannot be relayed, and lets it go on. */
apiece int reject(struct frame *frame, __u32 reason)
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
	return NEXT;
}

/* The offset of the UDP header behind an authentication header, or less than 0 and the reason. */
static inline_always int behind_authentication(struct __sk_buff *skb, __u32 offset, __u8 *next)
{
	__u8 start[2];
	if (bpf_skb_load_bytes(skb, offset, start, sizeof start) < 0 || start[1] == 0)
		return -1 - INPUT_MALFORMED;
	*next = start[0];
	return offset + (start[1] + 2) * 4;
}

struct walk {
	struct __sk_buff *skb;
	__u32 offset;
	__u32 walked;
	__u8 next;
	__u8 pad[3];
	int failed;
};

/* One IPv6 extension header. */
static long walk_one(__u32 index, struct walk *walk)
{
	__u8 kind = walk->next;
	__u8 bytes[8];
	(void)index;
	if (kind == UDP)
		return 1;
	int extension = kind == HOP_BY_HOP || kind == ROUTING || kind == FRAGMENT || kind == AUTHENTICATION ||
			kind == DESTINATION_OPTIONS;
	if (!extension) {
		walk->failed = -1 - INPUT_NOT_UDP;
		return 1;
	}
	if ((kind == HOP_BY_HOP && walk->walked > 0) ||
	    bpf_skb_load_bytes(walk->skb, walk->offset, bytes, sizeof bytes) < 0) {
		walk->failed = -1 - INPUT_MALFORMED;
		return 1;
	}
	walk->walked += 1;
	walk->next = bytes[0];
	if (kind == FRAGMENT) {
		walk->offset += 8;
		/* An atomic fragment (RFC 6946) is whole. */
		if (((bytes[2] << 8 | bytes[3]) & 0xfff9) != 0) {
			walk->failed = -1 - INPUT_FRAGMENT;
			return 1;
		}
	} else if (kind == AUTHENTICATION) {
		if (bytes[1] == 0)
			walk->failed = -1 - INPUT_MALFORMED;
		walk->offset += (bytes[1] + 2) * 4;
	} else {
		walk->offset += (bytes[1] + 1) * 8;
	}
	if (kind == ROUTING && bytes[3] != 0)
		walk->failed = -1 - INPUT_MALFORMED;
	return walk->failed != 0;
}

/* Where the UDP header is behind IPv6 extension headers, or less than 0 and the reason. */
apiece int walk_extensions(struct __sk_buff *skb, __u32 next)
{
	struct walk walk = { .skb = skb, .offset = ETHERNET_BYTES + IPV6_BYTES, .next = next };
	bpf_loop(EXTENSION_HEADERS_MAX + 1, walk_one, &walk, 0);
	if (walk.failed < 0)
		return walk.failed;
	if (walk.next != UDP || walk.walked > EXTENSION_HEADERS_MAX || walk.offset > 0xffff)
		return -1 - INPUT_MALFORMED;
	return walk.offset;
}

/* Reads the IP header. Returns the UDP header's offset; less than 0 and the reason; 0 for what is no UDP at all. */
apiece int read_ip(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame)
		return 0;
	void *data = start_of(skb);
	if (skb->protocol == htons(ETH_P_IP)) {
		if (unlikely(!holds(skb, data, ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES))) {
			if (bpf_skb_pull_data(skb, ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES) < 0)
				return 0;
			data = start_of(skb);
			if (!holds(skb, data, ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES))
				return 0;
		}
		struct ipv4 *ip = data + ETHERNET_BYTES;
		if (ip->protocol != UDP && ip->protocol != AUTHENTICATION)
			return 0;
		frame->key.address[0] = ip->address;
		frame->key.source[0] = ip->source;
		frame->hop_limit = ip->hop_limit;
		frame->traffic_class = ip->traffic_class;
		__u32 bytes = ntohs(ip->bytes), header_bytes = (ip->version_and_words & 15) * 4;
		frame->end = ETHERNET_BYTES + bytes;
		if (ip->version_and_words >> 4 != 4 || header_bytes < IPV4_BYTES || bytes < header_bytes)
			return -1 - INPUT_MALFORMED;
		if (ip->fragment & htons(0x3fff))
			return -1 - INPUT_FRAGMENT;
		if (likely(ip->protocol == UDP))
			return ETHERNET_BYTES + header_bytes;
		__u8 next;
		int offset = behind_authentication(skb, ETHERNET_BYTES + header_bytes, &next);
		return offset > 0 && next != UDP ? -1 - INPUT_NOT_UDP : offset;
	}
	if (skb->protocol != htons(ETH_P_IPV6))
		return 0;
	if (unlikely(!holds(skb, data, ETHERNET_BYTES + IPV6_BYTES + UDP_BYTES))) {
		if (bpf_skb_pull_data(skb, ETHERNET_BYTES + IPV6_BYTES + UDP_BYTES) < 0)
			return 0;
		data = start_of(skb);
		if (!holds(skb, data, ETHERNET_BYTES + IPV6_BYTES + UDP_BYTES))
			return 0;
	}
	struct ipv6 *ip = data + ETHERNET_BYTES;
	__u8 next = ip->next;
	if (next != UDP && next != HOP_BY_HOP && next != ROUTING && next != FRAGMENT && next != AUTHENTICATION &&
	    next != DESTINATION_OPTIONS)
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
	if (likely(next == UDP))
		return ETHERNET_BYTES + IPV6_BYTES;
	return walk_extensions(skb, next);
}

/* The block of a key, if there is one. */
static inline_always struct head *block_of(struct frame *frame)
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
	return head;
}

/* Finds the block of a datagram: that of its source, if its source has one, or that of any source. 0 if there is none. */
apiece int find(struct frame *frame)
{
	if (!frame)
		return 0;
	__u32 source[4] = { frame->key.source[0], frame->key.source[1], frame->key.source[2], frame->key.source[3] };
	frame->key.source[0] = frame->key.source[1] = frame->key.source[2] = frame->key.source[3] = 0;
	struct head *head = block_of(frame);
	copy_address(frame->key.source, source, 1);
	if (!head)
		return 0;
	if (likely(!(head->flags & HEAD_SOURCED)))
		return 1;
	int empty = head->flags & HEAD_EMPTY;
	__u32 base = frame->base;
	frame->key.sourced = 1;
	struct head *of_source = block_of(frame);
	frame->key.sourced = 0;
	if (of_source)
		return 1;
	frame->base = base;
	return !empty;
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

/* Takes options and extension headers out, so that the UDP header is behind the plain IP header. */
apiece int strip(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame)
		return -1;
	__u32 plain = ETHERNET_BYTES + (frame->key.ipv6 ? IPV6_BYTES : IPV4_BYTES);
	__u32 surplus = frame->udp_offset - plain;
	if (surplus > 0xfff)
		return -1;
	__u64 flags = skb->gso_size ? BPF_F_ADJ_ROOM_FIXED_GSO : 0;
	if (bpf_skb_adjust_room(skb, -(__s32)surplus, BPF_ADJ_ROOM_NET, flags) < 0)
		return -1;
	frame->udp_offset = plain;
	void *data = start_of(skb);
	if (!holds(skb, data, ETHERNET_BYTES + IPV4_BYTES))
		return -1;
	if (frame->key.ipv6) {
		if (!holds(skb, data, ETHERNET_BYTES + IPV6_BYTES))
			return -1;
		struct ipv6 *ip = data + ETHERNET_BYTES;
		ip->next = UDP;
		ip->payload_bytes = htons(ntohs(ip->payload_bytes) - surplus);
		return 0;
	}
	struct ipv4 *ip = data + ETHERNET_BYTES;
	ip->version_and_words = 0x45;
	ip->bytes = htons(ntohs(ip->bytes) - surplus);
	ip->protocol = UDP;
	ip->checksum = 0;
	__u32 *words = (void *)ip;
	__u64 sum = 0;
	for (int i = 0; i < 5; i++)
		sum += words[i];
	ip->checksum = ~fold(sum);
	return 0;
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

static inline_always int remember_udp(struct __sk_buff *skb, struct frame *frame, __u32 offset)
{
	void *data = start_of(skb);
	if (!holds(skb, data, offset + UDP_BYTES))
		return -1;
	struct udp *udp = data + offset;
	frame->source_port = udp->source_port;
	frame->udp_checksum = udp->checksum;
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
	frame->complete = bpf_csum_update(skb, 0) >= 0;
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
		if (remember_udp(skb, frame, ETHERNET_BYTES + IPV6_BYTES) < 0)
			return -1;
		written = (__u64)frame->version_class_flow + (__u32)frame->hop_limit * 256;
	} else {
		apart();
		if (remember_udp(skb, frame, ETHERNET_BYTES + IPV4_BYTES) < 0)
			return -1;
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
		return 0;
	}
	count_drop(frame, counts, result > 0 ? OUTPUT_QUEUE_FULL : OUTPUT_SEND_ERROR);
	if (result < 0) {
		__u64 errno = (__u64)(-result) & 0xffff, seen = counts->errno_and_count;
		if (seen == 0)
			seen = errno << 48;
		if (seen >> 48 == errno)
			counts->errno_and_count = seen + frame->datagrams;
	}
	return 0;
}

/* Counts a copy that is not sent. */
apiece int count_unsent(const struct frame *frame, __u32 counter, __u32 reason)
{
	struct output_counts *counts = bpf_map_lookup_elem(&outputs, &counter);
	if (frame && counts)
		count_drop(frame, counts, reason);
	return 0;
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
	count_unsent(frame, output->counter, drop - 1);
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

/* How many datagrams a frame is, and how large. Less than 0 if the UDP length is wrong. */
apiece int measure(struct frame *frame, __u32 udp_bytes, __u32 segment)
{
	if (!frame || udp_bytes < UDP_BYTES || udp_bytes > frame->end - frame->udp_offset)
		return -1;
	frame->payload_bytes = udp_bytes - UDP_BYTES;
	frame->datagrams = 1;
	frame->ip_bytes = frame->end - ETHERNET_BYTES;
	if (segment && segment < frame->payload_bytes) {
		frame->datagrams = (frame->payload_bytes + segment - 1) / segment;
		frame->ip_bytes = frame->udp_offset - ETHERNET_BYTES + UDP_BYTES + segment;
	}
	return 0;
}

/* Takes out a priority tag, options and extension headers. */
apiece int make_plain(struct __sk_buff *skb, struct frame *frame)
{
	if (!frame || (skb->vlan_present && bpf_skb_vlan_pop(skb) < 0))
		return -1;
	__u32 plain = ETHERNET_BYTES + (frame->key.ipv6 ? IPV6_BYTES : IPV4_BYTES);
	if (likely(frame->udp_offset == plain))
		return 0;
	frame->ip_bytes -= frame->udp_offset - plain;
	return strip(skb, frame);
}

/* Why a datagram that a rule wants is not relayed, or less than 0. What is, is ready to be rewritten. */
apiece int refuse(struct __sk_buff *skb, struct frame *frame, __u32 udp_bytes, __u32 all_keep)
{
	if (!frame)
		return INPUT_MALFORMED;
	frame->datagrams = 1;
	if (unlikely(measure(frame, udp_bytes, skb->gso_size) < 0))
		return INPUT_MALFORMED;
	if (!frame->key.ipv6 && unlikely(!is_ipv4_sum_right(skb, (frame->udp_offset - ETHERNET_BYTES) & 0x3c)))
		return INPUT_CHECKSUM;
	if (unlikely(frame->hop_limit <= 1 && all_keep))
		return INPUT_HOP_LIMIT;
	if (unlikely(make_plain(skb, frame) < 0 || remember(skb, frame) < 0))
		return INPUT_MALFORMED;
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
		return reject(&frame, -1 - udp_offset);
	struct udp udp;
	frame.udp_offset = udp_offset;
	if (frame.end > skb->len || frame.udp_offset + UDP_BYTES > frame.end ||
	    bpf_skb_load_bytes(skb, udp_offset, &udp, sizeof udp) < 0)
		return reject(&frame, INPUT_MALFORMED);
	frame.key.port = udp.port;
	if (!find(&frame))
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
	int reason = refuse(skb, &frame, ntohs(udp.bytes), flags & HEAD_ALL_KEEP);
	counts->datagrams += frame.datagrams;
	counts->bytes += frame.payload_bytes;
	if (unlikely(reason >= 0)) {
		_Pragma("unroll") for (int i = 0; i < INPUT_DROPS; i++)
			counts->drops[i] += reason == i ? frame.datagrams : 0;
		return NEXT;
	}
	counts->matched += frame.datagrams;
	return relay_to(skb, &frame, count, flags & HEAD_LOCAL);
}

const char LICENSE[] SEC("license") = "MIT";
