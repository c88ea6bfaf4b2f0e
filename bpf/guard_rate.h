/* What a source may send: a time up to which each has used what it gets (GCRA), so one number is all its state. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_RATES);
	__type(key, __u32);
	__type(value, struct rate);
} rates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct rate_source);
	__type(value, __u64); /* in 2^-6 ns */
} rate_sources SEC(".maps");

static __always_inline void mask_address(__be32 *out, const __be32 *address, __u32 length)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__u32 of_word = length > 32 ? 32 : length;

		out[i] = of_word ? address[i] & bpf_htonl(~0u << ((32 - of_word) & 31)) : 0;
		length -= of_word;
	}
}

static __always_inline int is_of(const struct rate *rate, const struct seen *p)
{
	return rate->of != RATE_SYNS ||
	       (p->protocol == IPPROTO_TCP && (p->flags & (SYN_FLAG | ACK_FLAG)) == SYN_FLAG);
}

/* Answers if the packet is more than its source may send. */
__noinline int is_over(const struct seen *p, __u32 which)
{
	struct rate *rate = bpf_map_lookup_elem(&rates, &which);
	struct rate_source source = {};
	__u64 now, cost, fresh;
	__u64 *used;

	if (!p)
		return 0;
	now = p->now << 6;
	if (!rate || !rate->interval || !is_of(rate, p))
		return 0;
	cost = rate->of == RATE_BYTES ? rate->interval * p->length : rate->interval;
	source.listener = p->listener;
	source.rate = which;
	source.is_ipv6 = p->is_ipv6;
	if (p->is_ipv6)
		mask_address(source.address, p->saddr, rate->length6);
	else
		mask_address(source.address, p->saddr, rate->length4 > 32 ? 32 : rate->length4);
	used = bpf_map_lookup_elem(&rate_sources, &source);
	if (!used) {
		if (cost > rate->depth)
			return 1;
		fresh = now + cost;
		if (!bpf_map_update_elem(&rate_sources, &source, &fresh, BPF_NOEXIST))
			return 0;
		used = bpf_map_lookup_elem(&rate_sources, &source); /* another processor was first */
		if (!used)
			return 0;
	}
	for (int i = 0; i < 4; i++) {
		__u64 before = *(volatile __u64 *)used, from = before > now ? before : now;

		if (from - now + cost > rate->depth)
			return 1;
		if (__sync_val_compare_and_swap(used, before, from + cost) == before)
			return 0;
	}
	return 1; /* other processors have just used it up */
}

/* Have all together used up what there is for all? Takes nothing. */
static __always_inline int is_used_up(const struct seen *p, __u32 which)
{
	struct rate *rate = bpf_map_lookup_elem(&rates, &which);
	struct rate_source all = { .listener = p->listener, .rate = which, .is_ipv6 = p->is_ipv6 };
	__u64 now = p->now << 6, cost, until;
	__u64 *used;

	if (!rate || !rate->interval || (p->is_ipv6 ? rate->length6 : rate->length4) || !is_of(rate, p))
		return 0;
	used = bpf_map_lookup_elem(&rate_sources, &all);
	if (!used)
		return 0;
	cost = rate->of == RATE_BYTES ? rate->interval * p->length : rate->interval;
	until = *(volatile __u64 *)used;
	return (until > now ? until - now : 0) + cost > rate->depth;
}

/* First what needs no look for the source: of a flood from everywhere that look costs more than all the rest. Global: the
 * verifier looks at it once. */
__noinline int is_over_any(const struct guarded *listener, const struct seen *p)
{
	if (!listener || !p)
		return 0;
#pragma unroll
	for (int i = 0; i < 4; i++)
		if (listener->rates[i] && is_used_up(p, listener->rates[i]))
			return 1;
#pragma unroll
	for (int i = 0; i < 4; i++)
		if (listener->rates[i] && is_over(p, listener->rates[i]))
			return 1;
	return 0;
}
