/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Headers of packets (linux/if_ether.h, linux/in.h, RFC 791, RFC 8200, RFC 768). */
#pragma once
#include "kernel.h"

enum {
	ETHERNET_BYTES = 14,
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	UDP_BYTES = 8,
	ETH_IPV4 = 0x0800,
	ETH_IPV6 = 0x86dd,
	ETH_OAM = 0x8902,
	IP_HOP_BY_HOP = 0,
	IP_ICMP = 1,
	IP_IGMP = 2,
	IP_TCP = 6,
	IP_UDP = 17,
	IP_ROUTING = 43,
	IP_FRAGMENT = 44,
	IP_AUTHENTICATION = 51,
	IP_ICMPV6 = 58,
	IP_DESTINATION_OPTIONS = 60,
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
