// SPDX-License-Identifier: MIT OR Apache-2.0
/* Relays datagrams at tc ingress. So far every frame goes on to the next program or the stack. */
#include "kernel.h"

struct __sk_buff;

SEC("tc")
int relay(struct __sk_buff *skb)
{
	(void)skb;
	return -1; /* TCX_NEXT, TC_ACT_UNSPEC */
}

const char LICENSE[] SEC("license") = "MIT";
