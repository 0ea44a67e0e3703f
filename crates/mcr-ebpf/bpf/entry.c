// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Stands at an interface where the kernel has no tcx links, as a filter, which outlives the process that put it there. So it relays
 * nothing itself: it jumps to the program in the array. The kernel empties such an array when its last descriptor is closed, however a
 * process ends; from then on every frame goes on untouched.
 */
#include "kernel.h"

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

SEC("classifier")
int mcr_entry(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &programs, 0);
	return NEXT;
}

const char LICENSE[] SEC("license") = "MIT";
