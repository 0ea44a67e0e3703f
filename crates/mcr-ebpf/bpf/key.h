/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What datagrams are found by in maps; src/layout.rs says it in Rust. */
#pragma once
#include "kernel.h"

/* What a datagram is looked up by. A source of zeroes with `sourced` 0 is any source. */
struct key {
	__u32 ifindex;
	__u16 port;
	__u8 ipv6;
	__u8 sourced;
	__u32 address[4];
	__u32 source[4];
};
_Static_assert(sizeof(struct key) == 40, "layout.rs");
