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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* so that it begins with a page, and a line is one of the cache */
	__uint(max_entries, RETURN_LINES);
	__type(key, __u32);
	__type(value, struct return_line);
} returns SEC(".maps");

/* Was it here in the turn before this one? It is in this one, from now on. Processors that write a line at once may lose each
 * other's bits: who is lost comes back once more. Global: the verifier looks at it once. */
__noinline int comes_back(const struct seen *p)
{
	struct return_half *mine, *last;
	struct return_line *line;
	__u32 hash = 0, turn, at;
	__u64 bits;
	int found;

	if (!p)
		return 0;
#pragma unroll
	for (int i = 0; i < 4; i++)
		hash = mix(hash, p->saddr[i]);
	hash = mix(hash, (__u32)p->sport << 16 | p->dport);
	hash = mix(hash, p->listener);
	bits = (__u64)hash * 0xff51afd7ed558ccdull;
	bits ^= bits >> 29;
	at = hash & (RETURN_LINES - 1);
	line = bpf_map_lookup_elem(&returns, &at);
	if (!line)
		return 0;
	turn = p->now >> TURN_SHIFT;
	mine = turn & 1 ? &line->halves[1] : &line->halves[0];
	last = turn & 1 ? &line->halves[0] : &line->halves[1];
	found = last->turn == turn - 1;
	if (mine->turn != turn) {
		mine->turn = turn;
#pragma unroll
		for (int i = 0; i < RETURN_WORDS; i++)
			mine->bits[i] = 0;
	}
#pragma unroll
	for (int i = 0; i < RETURN_WORDS; i++) {
		__u32 bit = bits >> (5 * i) & 31;

		found &= last->bits[i] >> bit & 1;
		mine->bits[i] |= 1u << bit;
	}
	return found;
}

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
__noinline int is_over(const struct seen *p, __u32 which, __u32 is_returning)
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
	source.is_returning = is_returning && rate->spares_returning;
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

#define FOR_ALL 1
#define BUT_RETURNING 2

/* Have all together used up what there is for all? 0, FOR_ALL or BUT_RETURNING. Takes nothing. */
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
	if ((until > now ? until - now : 0) + cost <= rate->depth)
		return 0;
	return rate->spares_returning ? BUT_RETURNING : FOR_ALL;
}

/* First what needs no look for the source: of a flood from everywhere that look costs more than all the rest. Global: the
 * verifier looks at it once. */
__noinline int is_over_any(const struct guarded *listener, const struct seen *p)
{
	int found, is_returning = 0;

	if (!listener || !p)
		return 0;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		found = listener->rates[i] ? is_used_up(p, listener->rates[i]) : 0;
		if (found == FOR_ALL)
			return 1;
		if (found == BUT_RETURNING)
			is_returning = 1;
	}
	if (is_returning && !comes_back(p))
		return 1;
#pragma unroll
	for (int i = 0; i < 4; i++)
		if (listener->rates[i] && is_over(p, listener->rates[i], is_returning))
			return 1;
	return 0;
}
