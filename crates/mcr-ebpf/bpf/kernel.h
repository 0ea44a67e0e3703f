/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the programs need of the kernel's stable interface (linux/bpf.h, linux/pkt_cls.h), written out so that clang alone builds them
 * and the objects depend on no installed header. Numbers and layouts are ABI: they never change.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define noinline __attribute__((__noinline__))
#define inline_always inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* Keeps the compiler from making one path of two that differ in an offset, which the verifier allows with CAP_PERFMON only. */
#define apart() __asm__ volatile("" ::: "memory")
/* Reads once, whole: the loader may be writing. */
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))

/* Maps are described to the loader by BTF: the type of a pointer, or the length of an array of pointers. */
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_F_NO_PREALLOC = 1,
	BPF_NOEXIST = 1,
	BPF_RB_NO_WAKEUP = 1,
};

/* All machines that MCR is built for are little-endian; a port to others begins here. */
#define htons(x) ((__u16)__builtin_bswap16(x))
#define ntohs(x) ((__u16)__builtin_bswap16(x))

/* `struct __sk_buff` as far as it is used; the offsets are ABI. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
};
_Static_assert(__builtin_offsetof(struct __sk_buff, data) == 76, "linux/bpf.h");
_Static_assert(__builtin_offsetof(struct __sk_buff, gso_size) == 176, "linux/bpf.h");

/* Verdicts of tcx and tc programs. NEXT is also TC_ACT_UNSPEC: the next program, or the stack. */
enum { NEXT = -1, SHOT = 2 };
enum { PACKET_OTHERHOST = 3 };

/* `struct bpf_dynptr`: memory of which the kernel checks each use. */
struct dynptr {
	__u64 opaque[2];
};

/* The kernel's helpers, by number (`enum bpf_func_id`). */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*bpf_get_prandom_u32)(void) = (void *)7;
static long (*bpf_l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to, __u64 flags) = (void *)11;
static long (*bpf_tail_call)(void *context, void *programs, __u32 index) = (void *)12;
static long (*bpf_clone_redirect)(struct __sk_buff *skb, __u32 ifindex, __u64 flags) = (void *)13;
static long (*bpf_skb_vlan_pop)(struct __sk_buff *skb) = (void *)19;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)26;
static __s64 (*bpf_csum_diff)(__u32 *from, __u32 from_bytes, __u32 *to, __u32 to_bytes, __u32 seed) = (void *)28;
static long (*bpf_skb_change_tail)(struct __sk_buff *skb, __u32 len, __u64 flags) = (void *)38;
static long (*bpf_skb_pull_data)(struct __sk_buff *skb, __u32 len) = (void *)39;
static __s64 (*bpf_csum_update)(struct __sk_buff *skb, __u32 csum) = (void *)40;
static long (*bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 len_diff, __u32 mode, __u64 flags) = (void *)50;
static long (*bpf_csum_level)(struct __sk_buff *skb, __u64 level) = (void *)135;
static __u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)160;
static long (*bpf_loop)(__u32 nr_loops, void *callback, void *context, __u64 flags) = (void *)181;
static long (*bpf_ringbuf_reserve_dynptr)(void *ring, __u32 bytes, __u64 flags, struct dynptr *room) = (void *)198;
static void (*bpf_ringbuf_submit_dynptr)(struct dynptr *room, __u64 flags) = (void *)199;
static long (*bpf_dynptr_write)(struct dynptr *to, __u64 offset, void *from, __u64 bytes, __u64 flags) = (void *)202;
enum { BPF_ADJ_ROOM_NET = 0, BPF_F_ADJ_ROOM_FIXED_GSO = 1, BPF_CSUM_LEVEL_QUERY = 0 };
