/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Gaps and jitter of rules, for next to nothing: most datagrams come in the tick of the one before and are in no sample, which is two
 * comparisons. A clock that is read for each would take a fifteenth of the program's time.
 */
#pragma once
#include "frame.h"

/*
 * The first datagram of a rule in this tick, on this CPU: how long was there none, on any? A rule's datagrams may go to another CPU
 * and come back, so that what one saw of them says nothing of gaps.
 */
apiece int note_arrival(__u32 rule, __u64 now_ns)
{
	struct arrivals *seen = bpf_map_lookup_elem(&arrivals, &rule);
	if (!seen)
		return -1;
	__u64 last_ns = READ_ONCE(seen->last_ns);
	/* Another CPU may have been first. */
	if (now_ns <= last_ns || __sync_val_compare_and_swap(&seen->last_ns, last_ns, now_ns) != last_ns)
		return 0;
	if (last_ns && now_ns - last_ns > READ_ONCE(seen->gap_max_ns))
		seen->gap_max_ns = now_ns - last_ns;
	return 0;
}

/*
 * A datagram that is in a sample. How many are passed over before the next sample is drawn by lot, or a sender with a rhythm would show
 * the same place of it each time: of the first few none, later up to 255, so that it says something soon and costs little for long.
 */
apiece int sample_timing(struct rule_counts *counts, __u32 rule)
{
	struct timing *timing = bpf_map_lookup_elem(&timings, &rule);
	if (!counts || !timing)
		return -1;
	__u64 now_ns = bpf_ktime_get_ns(), interval_ns = now_ns - timing->last_ns, before_ns = timing->interval_ns;
	timing->last_ns = now_ns;
	timing->interval_ns = interval_ns;
	if (timing->step < 2) {
		timing->step += 1;
		return 0;
	}
	/* RFC 3550, A.8, with each interval compared to the one before. */
	__u64 jitter_16 = timing->jitter_16;
	timing->jitter_16 = jitter_16 - ((jitter_16 + 8) >> 4) +
			    (interval_ns > before_ns ? interval_ns - before_ns : before_ns - interval_ns);
	if (timing->samples < TIMING_SAMPLES)
		timing->samples += 1;
	timing->step = 0;
	counts->sample_at = (__u32)counts->datagrams + 1 + (bpf_get_prandom_u32() & 255) * timing->samples / TIMING_SAMPLES;
	return 0;
}
