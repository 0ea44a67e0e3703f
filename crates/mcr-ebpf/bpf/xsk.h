/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What xsk.c and its loader (src/xsk) agree on, and what that program needs of the kernel besides. */
#pragma once
#include "net.h"

/* Why a frame goes to the stack; the order is that of the counters. The names are those of the reflector's own reasons. */
enum verdict {
	OURS,
	PASS_NO_SOCKET,
	PASS_SHORT,
	PASS_DST_MAC,
	PASS_DST_GROUP,
	PASS_SRC_OUI,
	PASS_SRC_GROUP,
	PASS_SRC_SELF,
	PASS_ETHER_TYPE,
	PASS_VLAN_DEPTH,
	PASS_OVERSIZE,
	PASS_IP_HEADER,
	PASS_FRAGMENT,
	PASS_PROTOCOL,
	PASS_LENGTH_FIELD,
	PASS_PORT,
	PASS_SIGNATURE,
	PASS_FAMILY_OFF,
	PASS_NOT_ALLOWED,
	PASS_LEVEL,
	PASS_REQUEST,
	VERDICTS,
};

enum {
	QUEUES_MAX = 256,
	SERVICES_MAX = 4,
	EXTENSION_HEADERS_MAX = 4,
};

/* Bits of `flags`. */
enum {
	SELECT_TO_US = 1 << 0,
	SELECT_OUI = 1 << 1,
	SELECT_GROUPS = 1 << 2,
	SELECT_TPID_9100 = 1 << 3,
	SELECT_FIRST_FRAGMENTS = 1 << 4,
	SELECT_EXTENSION_HEADERS = 1 << 5,
	SELECT_OAM = 1 << 6,
	SELECT_STANDARDS = 1 << 7,
	SELECT_AUTO = 1 << 8,
	SELECT_IDENTIFIED = 1 << 9,
	SELECT_TIMES = 1 << 10,
};

/* Bits of `signatures`. */
enum {
	SIGNATURE_PROBEOT = 1 << 0,
	SIGNATURE_DATAOT = 1 << 1,
	SIGNATURE_LATENCY = 1 << 2,
	SIGNATURE_RFC2544 = 1 << 3,
	SIGNATURE_Y1564 = 1 << 4,
};

/* Bits of `oam_requests`. */
enum {
	OAM_LBM = 1 << 0,
	OAM_DMM = 1 << 1,
	OAM_SLM = 1 << 2,
	OAM_LMM = 1 << 3,
};

/* What is wanted. Parts of addresses as they are loaded from a frame, ports in host order. */
struct selection {
	__u32 flags;
	__u32 signatures;
	__u32 mtu;
	__u32 mac_first;
	__u16 mac_last;
	__u16 oui_first;
	__u16 oui_last;
	__u16 oam_level;
	__u16 port;
	__u16 services[SERVICES_MAX];
	__u16 oam_requests;
};

/* What is put in front of a frame, if the times are wanted. */
struct arrival {
	__u64 monotonic_ns;
	__u32 magic;
	__u32 zero;
};
#define ARRIVAL_MAGIC 0x4d435258 /* "MCRX" */

/* linux/bpf.h */
struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};
enum { BPF_MAP_TYPE_XSKMAP = 17 };
enum { XDP_PASS = 2, XDP_REDIRECT = 4 };

static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;
static __u64 (*bpf_xdp_get_buff_len)(struct xdp_md *context) = (void *)188;
static long (*bpf_xdp_load_bytes)(struct xdp_md *context, __u32 offset, void *to, __u32 bytes) = (void *)189;
static long (*bpf_xdp_adjust_meta)(struct xdp_md *context, int delta) = (void *)54;

#define TEXT(a, b, c, d) ((__u32)(a) | (__u32)(b) << 8 | (__u32)(c) << 16 | (__u32)(d) << 24)
