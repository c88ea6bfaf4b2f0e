/* The rule table: the first rule of a listener that fits and does not only watch decides. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

struct rules {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct rule));
};

/* One slot: a listener's range and its rules are always of one rule set. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct rules);
} rule_sets SEC(".maps");

#define MAX_OPTIONS 40

/* What the options of a SYN say. */
struct options {
	__u32 fingerprint; /* of their kinds, in order */
	__u32 timestamp;   /* the sender's, as it lies in the packet */
	__u16 mss;         /* 0: none */
	__u8 window_scale; /* 15: none */
	__u8 has_sack, has_timestamp;
	__u8 is_read;
	__u8 bytes[MAX_OPTIONS + 16];
	__u32 at, count;
};

#define FINGERPRINT_SEED 0x811c9dc5
#define FINGERPRINT_STEP 0x01000193
#define FINGERPRINT_BROKEN 0x100 /* in place of a kind: lengths make no sense from here on */

/* One option; 1: that was the last. */
static long read_option(__u32 step, struct options *o)
{
	__u32 at = o->at, kind, length;
	__u8 *option;

	if (at >= o->count || at >= MAX_OPTIONS)
		return 1;
	option = o->bytes + at;
	kind = option[0];
	length = option[1]; /* there is room behind the last one */
	if (kind > 1 && (length < 2 || at + length > o->count))
		kind = FINGERPRINT_BROKEN;
	o->fingerprint = (o->fingerprint ^ kind) * FINGERPRINT_STEP;
	if (kind == 0 || kind == FINGERPRINT_BROKEN)
		return 1;
	if (kind == 1)
		length = 1;
	else if (kind == 2 && length == 4)
		o->mss = option[2] << 8 | option[3];
	else if (kind == 3 && length == 3)
		o->window_scale = option[2] > 14 ? 14 : option[2];
	else if (kind == 4 && length == 2)
		o->has_sack = 1;
	else if (kind == 8 && length == 10) {
		o->has_timestamp = 1;
		__builtin_memcpy(&o->timestamp, option + 2, 4);
	}
	o->at = at + length;
	return 0;
}

static __noinline int read_options(struct xdp_md *ctx, const struct seen *p, struct options *o)
{
	__u32 bytes = (__u32)p->header - 20;

	__builtin_memset(o->bytes, 0, sizeof(o->bytes));
	o->is_read = 1;
	o->fingerprint = FINGERPRINT_SEED;
	o->window_scale = 15;
	if (p->header <= 20 || bytes > MAX_OPTIONS)
		return 0;
	barrier_var(bytes);
	bytes = ((bytes - 1) & 63) + 1; /* as it is; for verifiers that do not see that it is not 0 */
	if (bpf_xdp_load_bytes(ctx, p->transport + 20, o->bytes, bytes))
		return 0;
	o->count = bytes;
	bpf_loop(MAX_OPTIONS, read_option, o, 0); /* the verifier looks at one step, not at all ways through forty */
	return 0;
}

static __always_inline int is_in(__u32 number, const __u16 *range)
{
	return number >= range[0] && number <= range[1];
}

static __always_inline int is_covered(const __be32 *address, const __be32 *wanted, const __be32 *mask)
{
	__u32 bits = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		bits |= (address[i] & mask[i]) ^ wanted[i];
	return !bits;
}

static __always_inline int fits_payload(struct xdp_md *ctx, const struct seen *p, const struct rule *rule)
{
	__u64 words[2] = {}, *wanted = (__u64 *)rule->payload, *mask = (__u64 *)rule->payload_mask;
	__u32 bytes = rule->payload_bytes, at = p->transport + p->header + rule->payload_at;

	if (!p->header || p->fragment == LATER_FRAGMENT || !bytes || bytes > 16)
		return 0;
	barrier_var(bytes);
	bytes = ((bytes - 1) & 15) + 1; /* as in read_options() */
	if (at + bytes > (__u32)p->network + p->length || bpf_xdp_load_bytes(ctx, at, words, bytes))
		return 0;
	return (words[0] & mask[0]) == wanted[0] && (words[1] & mask[1]) == wanted[1];
}

static __always_inline int fits(struct xdp_md *ctx, const struct seen *p, const struct rule *rule, struct options *o)
{
	__u32 tests = rule->tests;

	if (rule->expires && rule->expires <= p->now)
		return 0;
	if (rule->protocol && rule->protocol != p->protocol)
		return 0;
	if (rule->family && rule->family != (p->is_ipv6 ? 6 : 4))
		return 0;
	if (rule->flags_mask && (p->protocol != IPPROTO_TCP || (p->flags & rule->flags_mask) != rule->flags))
		return 0;
	if (!is_in(p->sport, rule->sport) || !is_in(p->dport, rule->dport) || !is_in(p->length, rule->length) ||
	    !is_in(p->window, rule->window) || p->hops < rule->hops[0] || p->hops > rule->hops[1])
		return 0;
	if (!tests)
		return 1;
	if (tests & TESTS_SOURCE && !is_covered(p->saddr, rule->source, rule->source_mask))
		return 0;
	if (tests & TESTS_DESTINATION && !is_covered(p->daddr, rule->destination, rule->destination_mask))
		return 0;
	if (tests & TESTS_ID_ZERO && (p->is_ipv6 || p->id))
		return 0;
	if (tests & TESTS_FRAGMENT && !p->fragment)
		return 0;
	if (tests & TESTS_OPTIONS) {
		if (p->protocol != IPPROTO_TCP || !(p->flags & SYN_FLAG))
			return 0;
		if (!o->is_read)
			read_options(ctx, p, o);
		if (tests & TESTS_FINGERPRINT && o->fingerprint != rule->fingerprint)
			return 0;
		if (tests & TESTS_MSS && !is_in(o->mss, rule->mss))
			return 0;
	}
	if (tests & TESTS_PAYLOAD && !fits_payload(ctx, p, rule))
		return 0;
	return 1;
}

int is_established(struct xdp_md *ctx, struct seen *p);

struct judging {
	struct xdp_md *ctx;
	struct seen *seen;
	struct options *options;
	void *set;
	__u32 first, verdict;
};

/* One rule; 1: it decides. */
static long judge_by_rule(__u32 step, struct judging *judging)
{
	struct seen *p = judging->seen;
	__u32 at = judging->first + step;
	struct rule *rule = bpf_map_lookup_elem(judging->set, &at);

	if (!rule)
		return 1;
	if (!fits(judging->ctx, p, rule, judging->options))
		return 0;
	if (rule->action == RULE_WATCH) {
		hit(rule->tag, is_established(judging->ctx, p) == YES);
		return 0;
	}
	p->tag = rule->tag;
	judging->verdict = rule->action == RULE_PASS ? GUARD_RULE_PASSED : GUARD_RULE_DROPPED;
	return 1;
}

/* Are there any that it may fit? Without a call. What is made of them in between does not matter: they are looked at again. */
static __always_inline int has_rules(const struct seen *p)
{
	__u32 slot = 0;
	struct rule_range *ranges;
	void *set = bpf_map_lookup_elem(&rule_sets, &slot);

	if (!set)
		return 0;
	slot = p->listener / RANGES_OF_RULE;
	ranges = bpf_map_lookup_elem(set, &slot);
	if (!ranges)
		return 0;
	slot = p->listener & (RANGES_OF_RULE - 1);
	return ranges[slot].count && is_in(p->sport, ranges[slot].sport);
}

/* GUARD_RULE_PASSED, GUARD_RULE_DROPPED, or GUARD_PASSED if no rule decides. */
static __noinline int judge_by_rules(struct xdp_md *ctx, struct seen *p, struct options *o)
{
	struct judging judging = { .ctx = ctx, .seen = p, .options = o, .verdict = GUARD_PASSED };
	__u32 slot = 0, at;
	struct rule_range *ranges;

	judging.set = bpf_map_lookup_elem(&rule_sets, &slot);
	if (!judging.set)
		return GUARD_PASSED;
	slot = p->listener / RANGES_OF_RULE;
	ranges = bpf_map_lookup_elem(judging.set, &slot);
	if (!ranges)
		return GUARD_PASSED;
	at = p->listener & (RANGES_OF_RULE - 1);
	if (!ranges[at].count)
		return GUARD_PASSED;
	judging.first = ranges[at].first;
	bpf_loop(ranges[at].count, judge_by_rule, &judging, 0);
	return judging.verdict;
}
