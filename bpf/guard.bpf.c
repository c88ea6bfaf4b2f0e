/* What comes in is judged before anything of this machine has to do with it (XDP).
 *
 * Only packets to ports and addresses that are guarded are judged; all others pass untouched. The order: what is
 * malformed or illegal, then open connections, allow, block, bans, rules, rates, and whether TCP has any business here.
 * (Whether a connection is open is asked only of what something else would drop: the outcome is the same.)
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#include "guard_base.h"
#include "guard_read.h"
#include "guard_spot.h"
#include "guard_prefix.h"
#include "guard_rule.h"
#include "guard_rate.h"
#include "guard_flow.h"
#include "guard_cookie.h"
#include "guard_fragment.h"
#include "guard_sample.h"

/* What no port of a listener gets: other protocols, and ports that nobody has. `PASSED` or a drop. */
static __always_inline int judge_rest(struct xdp_md *ctx, struct seen *p, const struct guarded *listener,
				      const struct guard_settings *with)
{
	__u32 protocol = p->protocol;

	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		if (!(listener->wants & WANTS_OPEN_PORTS) || p->fragment == LATER_FRAGMENT)
			return GUARD_PASSED;
		if (protocol == IPPROTO_UDP)
			return has_udp_socket(ctx, p) || has_session(p) || has_flow(p, 1) ? GUARD_PASSED : GUARD_PORT;
		return tcp_state(ctx, p) || has_flow(p, 1) ? GUARD_PASSED : GUARD_PORT;
	}
	if (!(listener->wants & WANTS_KNOWN_PROTOCOLS) || protocol == (p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return GUARD_PASSED;
	return with->protocols[protocol >> 6 & 3] >> (protocol & 63) & 1 ? GUARD_PASSED : GUARD_PROTOCOL;
}

static __always_inline int judge_tcp(struct xdp_md *ctx, struct seen *p, const struct guarded *listener,
				     const struct guard_settings *with)
{
	if (!(listener->wants & (WANTS_STATE | WANTS_COOKIES)))
		return GUARD_PASSED;
	if ((p->flags & (SYN_FLAG | ACK_FLAG)) == SYN_FLAG) {
		if (!(listener->wants & WANTS_COOKIES) || p->fragment)
			return GUARD_PASSED;
		the_time(p, with);
		return is_to_prime(p) ? GUARD_PRIMED : GUARD_COOKIE_SENT;
	}
	if (is_established(ctx, p) == YES)
		return GUARD_ESTABLISHED;
	/* Ours, or of the stack, which sends them under pressure. */
	if ((p->flags & (SYN_FLAG | ACK_FLAG | RST_FLAG)) == ACK_FLAG && has_cookie(ctx, p))
		return GUARD_COOKIE_TAKEN;
	return GUARD_OUT_OF_STATE;
}

/* Errors that a sender has to hear of, whoever sends them and however many: path MTU, unreachable, neighbours. */
static __always_inline int is_needed_icmp(const struct seen *p)
{
	if (p->is_ipv6)
		return p->protocol == IPPROTO_ICMPV6 &&
		       ((p->icmp_type >= 1 && p->icmp_type <= 4) || (p->icmp_type >= 130 && p->icmp_type <= 136));
	return p->protocol == IPPROTO_ICMP && (p->icmp_type == 3 || p->icmp_type == 11 || p->icmp_type == 12);
}

static __always_inline int judge(struct xdp_md *ctx, struct seen *p, const struct guarded *listener, int is_rest,
				 struct options *options, const struct guard_settings *with)
{
	__u32 access;
	int verdict;

	if (p->is_malformed)
		return GUARD_MALFORMED;
	if (p->is_illegal)
		return GUARD_ILLEGAL;
	access = access_of(listener, p, with);
	if (access) {
		p->tag = access & 0xffff;
		if (access & VALUE_ALLOW)
			return GUARD_ALLOWED;
		return may_be_established(p) && is_established(ctx, p) == YES ? GUARD_ESTABLISHED : GUARD_BLOCKED;
	}
	if (listener->bans && p->protocol == IPPROTO_TCP && (p->flags & (SYN_FLAG | ACK_FLAG)) == SYN_FLAG) {
		access = ban_of(p, with, listener->bans);
		if (access & VALUE_BLOCK) {
			p->tag = access & 0xffff;
			return GUARD_BANNED;
		}
	}
	if (p->fragment) {
		if (listener->wants & WANTS_NO_FRAGMENTS)
			return GUARD_FRAGMENT;
		if (p->fragment == LATER_FRAGMENT && listener->wants & WANTS_WHOLE_DATAGRAMS && first_fragment(p) != YES)
			return GUARD_FRAGMENT;
	}
	if (has_rules(p)) {
		the_time(p, with);
		verdict = judge_by_rules(ctx, p, options);
		if (verdict == GUARD_RULE_PASSED)
			return verdict;
		if (verdict == GUARD_RULE_DROPPED)
			return is_established(ctx, p) == YES ? GUARD_ESTABLISHED : verdict;
	}
	if (*(__u64 *)listener->rates && !(is_rest && is_needed_icmp(p))) {
		if (is_established(ctx, p) == YES)
			return GUARD_ESTABLISHED;
		the_time(p, with);
		if (is_over_any(listener, p))
			return GUARD_RATE;
	}
	if (is_rest)
		return judge_rest(ctx, p, listener, with);
	return p->protocol == IPPROTO_TCP ? judge_tcp(ctx, p, listener, with) : GUARD_PASSED;
}

/* Count it, tell of it, and make it so. */
static __always_inline int finish(struct xdp_md *ctx, struct seen *p, const struct guarded *listener,
				  struct options *options, const struct guard_settings *with, __u32 verdict)
{
	struct guard_counts *counts;
	__u32 index = p->listener;
	int answer = XDP_TX;

	if (p->fragment == FIRST_FRAGMENT)
		remember_first(p, verdict < FIRST_DROP || listener->mode != GUARD_PROTECT ? YES : NO);
	hit(p->tag, verdict == GUARD_ESTABLISHED);
	if (with->sample_every)
		the_time(p, with);
	if (is_to_sample(p, with))
		write_sample(ctx, p, verdict, listener->mode, standing_of(ctx, p));
	if (verdict == GUARD_COOKIE_SENT && listener->mode == GUARD_PROTECT) {
		if (is_mute(ctx))
			answer = XDP_PASS; /* and the stack answers with a cookie of its own */
		else
			verdict = answer_syn(ctx, p, options, with);
	}
	counts = bpf_map_lookup_elem(&guard_counts, &index);
	barrier_var(verdict); /* the compiler knows that it is one, the verifier does not */
	if (!counts || verdict >= GUARD_VERDICTS)
		return XDP_PASS;
	if (listener->mode != GUARD_PROTECT) {
		counts->watched[verdict] += 1;
		return XDP_PASS;
	}
	counts->packets[verdict] += 1;
	counts->bytes[verdict] += p->length;
	if (verdict == GUARD_COOKIE_SENT)
		return answer;
	return verdict >= FIRST_DROP ? XDP_DROP : XDP_PASS;
}

/* What is seen of a packet, for each processor. Not on the stack: of memory there the verifier knows every bit, and would
 * look at all that follows once for each way in which a packet can be read. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} seen SEC(".maps");

SEC("xdp.frags")
int guard(struct xdp_md *ctx)
{
	struct options options;
	struct guard_settings *with;
	struct guarded *listener;
	struct seen *p;
	__u32 slot = 0, verdict;
	int is_rest;

	p = bpf_map_lookup_elem(&seen, &slot);
	with = bpf_map_lookup_elem(&settings, &slot);
	if (!p || !with)
		return XDP_PASS;
	__builtin_memset(p, 0, sizeof(*p));
	if (!read_packet(ctx, p))
		return XDP_PASS;
	is_rest = find_listener(p, with);
	if (!p->listener)
		return XDP_PASS;
	listener = bpf_map_lookup_elem(&guarded, &p->listener);
	if (!listener || listener->mode == GUARD_OFF) {
		if (p->fragment == FIRST_FRAGMENT)
			remember_first(p, YES);
		return XDP_PASS;
	}
	options.fingerprint = options.timestamp = options.at = options.count = 0;
	options.mss = options.window_scale = options.has_sack = options.has_timestamp = options.is_read = 0;
	verdict = judge(ctx, p, listener, is_rest, &options, with);
	return finish(ctx, p, listener, &options, with, verdict);
}

char LICENSE[] SEC("license") = "GPL";
