// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Gives AF_XDP sockets the frames that a reflector wants, and the stack everything else.
 *
 * It decides as the reflector's own parser does (mcr-reflect, classify): the same checks in the same order, each with the reason that
 * is counted. What that parser accepts is always redirected; of the rest only what is a request of ours and refused for another
 * reason (loops, rates, who is allowed), so that user space counts it. Frames are never dropped and, if they go to the stack, never
 * changed.
 */
#include "xsk.h"

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, QUEUES_MAX);
} sockets SEC(".maps");

/* Two selections, and which of them holds: a change writes the other one and then this one word. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct selection);
	__uint(max_entries, 2);
} selections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} current SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, VERDICTS);
} counts SEC(".maps");

/* Those of them that lack little to be wanted: somebody may ask why they were not. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, VERDICTS);
} near_misses SEC(".maps");

/*
 * Where the headers of a frame are, and copies of what is looked at. Only the Ethernet header and the tags are read in place: to a
 * loader without CAP_PERFMON the verifier allows no offset into the frame that it does not know (kernel/bpf/verifier.c, sanitize_ptr_alu),
 * so all behind them is loaded by a helper, and lengths are compared as numbers. The steps are functions of their own
 * for the same reason: nor does it allow half of a spilled pointer's place to be used for something else, which the compiler does in long ones.
 */
struct headers {
	struct xdp_md *context;
	__u32 bytes; /* of the frame */
	__u32 ether_type; /* in host order */
	__u32 network; /* offset */
	__u32 transport; /* offset */
	__u32 room; /* bytes from there to the end of the datagram */
	__u32 protocol;
	__u32 first_fragment;
	__u8 ip[40];
	__u8 udp[20]; /* with the first 12 bytes of the payload */
};

static inline_always __u32 load16(const void *at)
{
	return ntohs(*(const __u16 *)at);
}

static inline_always int is_tag(const struct selection *want, __u32 ether_type)
{
	return ether_type == 0x8100 || ether_type == 0x88a8 ||
	       (ether_type == 0x9100 && want->flags & SELECT_TPID_9100);
}

/* Ethernet header and up to two tags. */
static noinline enum verdict link(const struct selection *want, struct headers *headers)
{
	void *data = (void *)(long)headers->context->data, *end = (void *)(long)headers->context->data_end;
	__u32 ether_type;

	headers->network = 14;
	if (data + 14 > end)
		return PASS_SHORT;
	ether_type = load16(data + 12);
	if (is_tag(want, ether_type)) {
		headers->network = 18;
		if (data + 18 > end)
			return PASS_SHORT;
		ether_type = load16(data + 16);
		if (is_tag(want, ether_type)) {
			headers->network = 22;
			if (data + 22 > end)
				return PASS_SHORT;
			ether_type = load16(data + 20);
			if (is_tag(want, ether_type))
				return PASS_VLAN_DEPTH;
		}
	}
	headers->ether_type = ether_type;
	return OURS;
}

static noinline enum verdict ipv4(const struct selection *want, struct headers *headers)
{
	const __u8 *ip = headers->ip;
	__u32 room = headers->bytes - headers->network, header_bytes, total_bytes, fragment;

	if (bpf_xdp_load_bytes(headers->context, headers->network, headers->ip, 20))
		return PASS_SHORT;
	header_bytes = (ip[0] & 15) * 4;
	if (ip[0] >> 4 != 4 || header_bytes < 20)
		return PASS_IP_HEADER;
	if (room < header_bytes)
		return PASS_SHORT;
	total_bytes = load16(ip + 2);
	if (total_bytes < header_bytes || total_bytes > room)
		return PASS_LENGTH_FIELD;
	fragment = load16(ip + 6) & 0x3fff;
	headers->first_fragment = fragment == 0x2000;
	if (fragment && !(headers->first_fragment && want->flags & SELECT_FIRST_FRAGMENTS))
		return PASS_FRAGMENT;
	headers->protocol = ip[9];
	headers->transport = headers->network + header_bytes;
	headers->room = total_bytes - header_bytes;
	return OURS;
}

static noinline enum verdict ipv6(const struct selection *want, struct headers *headers)
{
	const __u8 *ip = headers->ip;
	__u32 payload_bytes, skipped = 0, protocol;

	if (bpf_xdp_load_bytes(headers->context, headers->network, headers->ip, 40))
		return PASS_SHORT;
	if (ip[0] >> 4 != 6)
		return PASS_IP_HEADER;
	payload_bytes = load16(ip + 4);
	if (payload_bytes > headers->bytes - headers->network - 40)
		return PASS_LENGTH_FIELD;
	protocol = ip[6];
	for (int options = 0; options < EXTENSION_HEADERS_MAX; options++) {
		__u8 option[2];

		if (!(want->flags & SELECT_EXTENSION_HEADERS) || (protocol != 0 && protocol != 60))
			break;
		if (skipped + 2 > payload_bytes ||
		    bpf_xdp_load_bytes(headers->context, headers->network + 40 + skipped, option, 2))
			return PASS_LENGTH_FIELD;
		protocol = option[0];
		skipped += (option[1] + 1) * 8;
		if (skipped > payload_bytes)
			return PASS_LENGTH_FIELD;
	}
	if (protocol == 44)
		return PASS_FRAGMENT;
	headers->protocol = protocol;
	headers->transport = headers->network + 40 + skipped;
	headers->room = payload_bytes - skipped;
	headers->first_fragment = 0;
	return OURS;
}

static inline_always enum verdict network(const struct selection *want, struct headers *headers)
{
	if (headers->ether_type == ETH_IPV4)
		return ipv4(want, headers);
	if (headers->ether_type == ETH_IPV6)
		return ipv6(want, headers);
	return PASS_ETHER_TYPE;
}

/* The UDP header, and as much of the payload as a signature can be in. Leaves in `room` how many bytes of it are in this frame. */
static noinline enum verdict udp(struct headers *headers)
{
	struct xdp_md *context = headers->context;
	__u32 bytes, at = headers->transport;

	if (headers->protocol != IP_UDP)
		return PASS_PROTOCOL;
	if (headers->room < 8)
		return PASS_LENGTH_FIELD;
	if (bpf_xdp_load_bytes(context, at, headers->udp, 20) && bpf_xdp_load_bytes(context, at, headers->udp, 15) &&
	    bpf_xdp_load_bytes(context, at, headers->udp, 8))
		return PASS_LENGTH_FIELD;
	bytes = load16(headers->udp + 4);
	if (bytes < 8 || (bytes > headers->room && !headers->first_fragment))
		return PASS_LENGTH_FIELD;
	if (bytes < headers->room)
		headers->room = bytes;
	return OURS;
}

static inline_always int is_group(const struct headers *headers, int destination)
{
	const __u8 *ip = headers->ip;

	if (headers->ether_type == ETH_IPV6)
		return ip[destination ? 24 : 8] == 0xff;
	ip += destination ? 16 : 12;
	return (ip[0] & 0xf0) == 0xe0 || *(const __u32 *)ip == 0xffffffff;
}

static inline_always enum verdict addresses(const struct selection *want, const struct headers *headers)
{
	if (is_group(headers, 0))
		return PASS_SRC_GROUP;
	if (is_group(headers, 1) && !(want->flags & SELECT_GROUPS))
		return PASS_DST_GROUP;
	return OURS;
}

static inline_always int is_service(const struct selection *want, __u32 port)
{
	for (int service = 0; service < SERVICES_MAX; service++) {
		if (port && want->services[service] == port)
			return 1;
	}
	return 0;
}

/* Seven bytes, as two words that overlap by one byte. */
static inline_always int is_text(const __u8 *at, __u32 first, __u32 last)
{
	return TEXT(at[0], at[1], at[2], at[3]) == first && TEXT(at[3], at[4], at[5], at[6]) == last;
}

static noinline enum verdict signature(const struct selection *want, const struct headers *headers)
{
	const __u8 *payload = headers->udp + 8;
	__u32 bytes = headers->room - 8, kind = 0;

	if (bytes >= 12) {
		if (is_text(payload + 5, TEXT('P', 'R', 'O', 'B'), TEXT('B', 'E', 'O', 'T')))
			kind = SIGNATURE_PROBEOT;
		else if (is_text(payload + 5, TEXT('D', 'A', 'T', 'A'), TEXT('A', ':', 'O', 'T')))
			kind = SIGNATURE_DATAOT;
		else if (is_text(payload + 5, TEXT('L', 'A', 'T', 'E'), TEXT('E', 'N', 'C', 'Y')))
			kind = SIGNATURE_LATENCY;
	}
	if (!kind && bytes >= 7) {
		if (is_text(payload, TEXT('R', 'F', 'C', '2'), TEXT('2', '5', '4', '4')))
			kind = SIGNATURE_RFC2544;
		else if (is_text(payload, TEXT('Y', '.', '1', '5'), TEXT('5', '6', '4', ' ')))
			kind = SIGNATURE_Y1564;
	}
	if (!kind)
		return PASS_SIGNATURE;
	return want->signatures & kind ? OURS : PASS_FAMILY_OFF;
}

/* A UDP datagram: for a service, or with a signature. */
static noinline enum verdict datagram(const struct selection *want, const struct headers *headers, int from_tester,
					   int to_group)
{
	__u32 port = load16(headers->udp + 2);
	enum verdict verdict = addresses(want, headers);

	if (verdict != OURS)
		return verdict;
	if (is_service(want, port)) {
		/* The services answer no group, whatever test frames do. */
		if (to_group || is_group(headers, 1))
			return PASS_DST_GROUP;
		return headers->first_fragment ? PASS_FRAGMENT : OURS;
	}
	if (!from_tester)
		return PASS_SRC_OUI;
	if (want->port && port != want->port)
		return PASS_PORT;
	return signature(want, headers);
}

/* Mode auto: whatever the frame is, as far up as it goes. `ip` is what its IP header came to, and `datagram` its UDP header. */
static noinline enum verdict auto_mode(const struct selection *want, const struct headers *headers, int from_tester,
					    enum verdict ip, enum verdict datagram)
{
	enum verdict verdict;
	__u8 ports[4];

	if (!from_tester)
		return PASS_SRC_OUI;
	switch (headers->ether_type) {
	case 0 ... 0x05ff:
	case 0x0806: /* ARP */
	case 0x8035: /* reverse ARP */
	case 0x8808: /* pause */
	case 0x8809: /* slow protocols */
	case 0x88cc: /* LLDP */
	case ETH_OAM:
		return PASS_ETHER_TYPE;
	case ETH_IPV4:
	case ETH_IPV6:
		break;
	default:
		return want->flags & SELECT_IDENTIFIED ? OURS : PASS_NOT_ALLOWED;
	}
	if (ip != OURS)
		return ip;
	verdict = addresses(want, headers);
	if (verdict != OURS)
		return verdict;
	switch (headers->protocol) {
	case IP_ICMP:
	case IP_IGMP:
	case IP_ICMPV6:
		return PASS_PROTOCOL;
	case IP_UDP:
		if (datagram != OURS)
			return datagram;
		break;
	case IP_TCP:
		if (headers->room < 20)
			return PASS_LENGTH_FIELD;
		break;
	default:
		return want->flags & SELECT_IDENTIFIED ? OURS : PASS_NOT_ALLOWED;
	}
	if (!want->port)
		return OURS;
	if (bpf_xdp_load_bytes(headers->context, headers->transport, ports, 4))
		return PASS_LENGTH_FIELD;
	return load16(ports + 2) == want->port ? OURS : PASS_PORT;
}

/* A request of our level and one that is answered; other levels and operations are other programs' business. */
static noinline enum verdict oam(const struct selection *want, struct headers *headers)
{
	__u8 pdu[4];
	__u32 request;

	if (bpf_xdp_load_bytes(headers->context, headers->network, pdu, sizeof(pdu)))
		return PASS_SHORT;
	if (pdu[0] >> 5 != want->oam_level)
		return PASS_LEVEL;
	switch (pdu[1]) {
	case 3:
		request = OAM_LBM;
		break;
	case 47:
		request = OAM_DMM;
		break;
	case 55:
		request = OAM_SLM;
		break;
	case 43:
		request = OAM_LMM;
		break;
	default:
		return PASS_REQUEST;
	}
	return want->oam_requests & request ? OURS : PASS_REQUEST;
}

static noinline enum verdict decide(const struct selection *want, struct headers *headers)
{
	const __u8 *frame = (void *)(long)headers->context->data;
	int to_group, to_oam_group, to_us, from_tester;
	enum verdict verdict, ip;

	if ((void *)frame + 14 > (void *)(long)headers->context->data_end)
		return PASS_SHORT;
	to_group = frame[0] & 1;
	to_us = *(__u32 *)frame == want->mac_first && *(__u16 *)(frame + 4) == want->mac_last;
	/* 01:80:c2:00:00:3x, class 1 of Y.1731. */
	to_oam_group = want->flags & SELECT_OAM && *(__u32 *)frame == TEXT(0x01, 0x80, 0xc2, 0x00) &&
		       *(__u16 *)(frame + 4) == (__u16)((0x30 | want->oam_level) << 8);
	if (!to_oam_group) {
		if (want->flags & SELECT_TO_US && !to_us)
			return PASS_DST_MAC;
		if (to_group && !(want->flags & SELECT_GROUPS))
			return PASS_DST_GROUP;
	}
	from_tester = !(want->flags & SELECT_OUI) ||
		      (*(__u16 *)(frame + 6) == want->oui_first && frame[8] == want->oui_last);
	if (!from_tester && !(want->flags & SELECT_STANDARDS))
		return PASS_SRC_OUI;
	if (frame[6] & 1)
		return PASS_SRC_GROUP;
	if (*(__u32 *)(frame + 6) == want->mac_first && *(__u16 *)(frame + 10) == want->mac_last)
		return PASS_SRC_SELF;
	verdict = link(want, headers);
	if (verdict != OURS)
		return verdict;
	if (headers->bytes > want->mtu + headers->network)
		return PASS_OVERSIZE;
	if (headers->ether_type == ETH_OAM && want->flags & SELECT_OAM)
		return to_oam_group || to_us ? oam(want, headers) : PASS_DST_MAC;
	if (to_oam_group)
		return PASS_ETHER_TYPE;

	verdict = ip = network(want, headers);
	if (verdict == OURS)
		verdict = udp(headers);
	if (want->flags & SELECT_AUTO && (verdict != OURS || !is_service(want, load16(headers->udp + 2))))
		return auto_mode(want, headers, from_tester, ip, verdict);
	return verdict == OURS ? datagram(want, headers, from_tester, to_group) : verdict;
}

/*
 * Whether a frame that is not wanted has the right port or a signature, or cannot be read so far: the same question that the classic
 * filter of packet sockets answers (mcr-reflect, filter), where such frames go to user space to be counted.
 */
static noinline int is_near_miss(const struct selection *want, struct headers *headers)
{
	const __u8 *frame = (void *)(long)headers->context->data;
	__u8 loaded[4];
	__u32 transport, port;
	enum verdict verdict;

	if ((void *)frame + 14 > (void *)(long)headers->context->data_end)
		return 0;
	if (want->flags & SELECT_IDENTIFIED) {
		int to_us = *(__u32 *)frame == want->mac_first && *(__u16 *)(frame + 4) == want->mac_last;
		int from_tester = *(__u16 *)(frame + 6) == want->oui_first && frame[8] == want->oui_last;

		if ((to_us || !(want->flags & SELECT_TO_US)) && (from_tester || !(want->flags & SELECT_OUI)))
			return 1;
	}
	verdict = link(want, headers);
	if (verdict != OURS)
		return verdict == PASS_VLAN_DEPTH;
	if (headers->ether_type == ETH_OAM && want->flags & SELECT_OAM)
		return 1;
	if (headers->ether_type == ETH_IPV4) {
		if (bpf_xdp_load_bytes(headers->context, headers->network, loaded, 1))
			return 0;
		if (loaded[0] >> 4 != 4 || (loaded[0] & 15) < 5)
			return 1;
		transport = headers->network + (loaded[0] & 15) * 4;
	} else if (headers->ether_type == ETH_IPV6) {
		if (want->flags & SELECT_EXTENSION_HEADERS) {
			if (bpf_xdp_load_bytes(headers->context, headers->network + 6, loaded, 1))
				return 0;
			if (loaded[0] == 0 || loaded[0] == 60)
				return 1;
		}
		transport = headers->network + 40;
	} else {
		return 0;
	}
	if (bpf_xdp_load_bytes(headers->context, transport + 2, loaded, 2))
		return 0;
	port = load16(loaded);
	if (is_service(want, port) || (want->port && port == want->port))
		return 1;
	if (want->flags & SELECT_AUTO && !want->port)
		return 0;
	if (bpf_xdp_load_bytes(headers->context, transport + 8, loaded, 4))
		return 0;
	switch (TEXT(loaded[0], loaded[1], loaded[2], loaded[3])) {
	case TEXT('R', 'F', 'C', '2'):
	case TEXT('Y', '.', '1', '5'):
		return 1;
	}
	if (bpf_xdp_load_bytes(headers->context, transport + 13, loaded, 4))
		return 0;
	switch (TEXT(loaded[0], loaded[1], loaded[2], loaded[3])) {
	case TEXT('P', 'R', 'O', 'B'):
	case TEXT('D', 'A', 'T', 'A'):
	case TEXT('L', 'A', 'T', 'E'):
		return 1;
	}
	return 0;
}

/* When the frame came, in front of it; a driver that has no room for that makes it go without. */
static noinline void put_time(struct xdp_md *context)
{
	struct arrival *arrival;
	void *data;

	if (bpf_xdp_adjust_meta(context, -(int)sizeof(*arrival)))
		return;
	arrival = (void *)(long)context->data_meta;
	data = (void *)(long)context->data;
	if ((void *)(arrival + 1) > data)
		return;
	arrival->monotonic_ns = bpf_ktime_get_ns();
	arrival->magic = ARRIVAL_MAGIC;
	arrival->zero = 0;
}

SEC("xdp")
int xsk(struct xdp_md *context)
{
	__u32 zero = 0, verdict, *which = bpf_map_lookup_elem(&current, &zero);
	struct selection *want;
	struct headers headers = {};
	int action = XDP_PASS;
	__u64 *counted;

	if (!which)
		return XDP_PASS;
	want = bpf_map_lookup_elem(&selections, which);
	if (!want)
		return XDP_PASS;
	headers.context = context;
	headers.bytes = bpf_xdp_get_buff_len(context);
	verdict = decide(want, &headers);
	if (verdict == OURS) {
		/* What its third argument says happens where the queue has no socket. */
		action = bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
		if (action == XDP_REDIRECT && want->flags & SELECT_TIMES)
			put_time(context);
		if (action != XDP_REDIRECT)
			verdict = PASS_NO_SOCKET;
	} else if (is_near_miss(want, &headers)) {
		counted = bpf_map_lookup_elem(&near_misses, &verdict);
		if (counted)
			++*counted;
	}
	counted = bpf_map_lookup_elem(&counts, &verdict);
	if (counted)
		++*counted;
	return action;
}

const char LICENSE[] SEC("license") = "MIT";
