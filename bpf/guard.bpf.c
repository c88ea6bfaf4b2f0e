/* What comes in is judged before anything of this machine has to do with it (XDP).
 *
 * Only packets to ports and addresses that are guarded are judged; all others pass untouched. The order: what is
 * malformed or illegal, then open connections, allow, block, rules, rates, and whether TCP has any business here.
 * (Whether a connection is open is asked only of what something else would drop: the outcome is the same.)
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#include "guard_base.h"
#include "guard_read.h"
#include "guard_prefix.h"
#include "guard_rule.h"
#include "guard_rate.h"
#include "guard_flow.h"
#include "guard_cookie.h"
#include "guard_fragment.h"
#include "guard_sample.h"

static __always_inline __u32 listener_at(const struct spot *spot, __u32 port)
{
	struct guarded_ports *ports = bpf_map_lookup_elem(&guarded_ports, spot);

	return ports ? ports->listener[port & 0xffff] : 0;
}

/* Whose packet it is: the port's, else the address's (then it answers 1); 0: nobody's. */
static __always_inline int find_listener(struct seen *p, const struct guard_settings *with)
{
	struct spot spot = { .protocol = p->protocol, .is_ipv6 = p->is_ipv6 };
	__u32 *address;

	__builtin_memcpy(spot.address_be, p->daddr, 16);
	if ((p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) && p->fragment != LATER_FRAGMENT) {
		p->listener = listener_at(&spot, p->dport);
		if (!p->listener && with->has_wildcards) {
			__builtin_memset(spot.address_be, 0, 16);
			p->listener = listener_at(&spot, p->dport);
			__builtin_memcpy(spot.address_be, p->daddr, 16);
		}
		if (p->listener)
			return 0;
	}
	spot.protocol = 0;
	address = bpf_map_lookup_elem(&guarded_addresses, &spot);
	p->listener = address ? *address : 0;
	return 1;
}

/* What no port of a listener gets: other protocols, and ports that nobody has. `PASSED` or a drop. */
static __always_inline int judge_rest(struct xdp_md *ctx, struct seen *p, const struct guarded *listener,
				      const struct guard_settings *with)
{
	__u32 protocol = p->protocol;

	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		if (!(listener->wants & WANTS_OPEN_PORTS) || p->fragment == LATER_FRAGMENT)
			return GUARD_PASSED;
		if (protocol == IPPROTO_UDP)
			return has_udp_socket(ctx, p) || has_flow(p, 1) ? GUARD_PASSED : GUARD_PORT;
		return tcp_state(ctx, p) || has_flow(p, 1) ? GUARD_PASSED : GUARD_PORT;
	}
	if (!(listener->wants & WANTS_KNOWN_PROTOCOLS) || protocol == (p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return GUARD_PASSED;
	return with->protocols[protocol >> 6 & 3] >> (protocol & 63) & 1 ? GUARD_PASSED : GUARD_PROTOCOL;
}

static __always_inline int judge_tcp(struct xdp_md *ctx, struct seen *p, const struct guarded *listener)
{
	if (!(listener->wants & (WANTS_STATE | WANTS_COOKIES)))
		return GUARD_PASSED;
	if ((p->flags & (SYN_FLAG | ACK_FLAG)) == SYN_FLAG) {
		if (!(listener->wants & WANTS_COOKIES) || p->fragment)
			return GUARD_PASSED;
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
	access = access_of(listener, p);
	if (access) {
		p->tag = access & 0xffff;
		if (access & VALUE_ALLOW)
			return GUARD_ALLOWED;
		return is_established(ctx, p) == YES ? GUARD_ESTABLISHED : GUARD_BLOCKED;
	}
	if (p->fragment) {
		if (listener->wants & WANTS_NO_FRAGMENTS)
			return GUARD_FRAGMENT;
		if (p->fragment == LATER_FRAGMENT && listener->wants & WANTS_WHOLE_DATAGRAMS && first_fragment(p) != YES)
			return GUARD_FRAGMENT;
	}
	verdict = judge_by_rules(ctx, p, options);
	if (verdict == GUARD_RULE_PASSED)
		return verdict;
	if (verdict == GUARD_RULE_DROPPED)
		return is_established(ctx, p) == YES ? GUARD_ESTABLISHED : verdict;
	if (*(__u64 *)listener->rates && !(is_rest && is_needed_icmp(p))) {
		if (is_established(ctx, p) == YES)
			return GUARD_ESTABLISHED;
		if (is_over_any(listener, p))
			return GUARD_RATE;
	}
	if (is_rest)
		return judge_rest(ctx, p, listener, with);
	return p->protocol == IPPROTO_TCP ? judge_tcp(ctx, p, listener) : GUARD_PASSED;
}

/* Count it, tell of it, and make it so. */
static __always_inline int finish(struct xdp_md *ctx, struct seen *p, const struct guarded *listener,
				  struct options *options, const struct guard_settings *with, __u32 verdict)
{
	struct guard_counts *counts;
	__u32 index = p->listener;

	if (p->fragment == FIRST_FRAGMENT)
		remember_first(p, verdict < FIRST_DROP || listener->mode != GUARD_PROTECT ? YES : NO);
	hit(p->tag, verdict == GUARD_ESTABLISHED);
	if (is_to_sample(p, with))
		write_sample(ctx, p, verdict, listener->mode, is_two_way(ctx, p));
	if (verdict == GUARD_COOKIE_SENT && listener->mode == GUARD_PROTECT)
		verdict = answer_syn(ctx, p, options, with);
	counts = bpf_map_lookup_elem(&guard_counts, &index);
	if (!counts || verdict >= GUARD_VERDICTS)
		return XDP_PASS;
	if (listener->mode != GUARD_PROTECT) {
		counts->watched[verdict] += 1;
		return XDP_PASS;
	}
	counts->packets[verdict] += 1;
	counts->bytes[verdict] += p->length;
	if (verdict == GUARD_COOKIE_SENT)
		return XDP_TX;
	return verdict >= FIRST_DROP ? XDP_DROP : XDP_PASS;
}

SEC("xdp.frags")
int guard(struct xdp_md *ctx)
{
	struct options options = {};
	struct seen p = {};
	struct guard_settings *with;
	struct guarded *listener;
	__u32 slot = 0, verdict;
	int is_rest;

	if (!read_packet(ctx, &p))
		return XDP_PASS;
	with = bpf_map_lookup_elem(&settings, &slot);
	if (!with)
		return XDP_PASS;
	is_rest = find_listener(&p, with);
	if (!p.listener)
		return XDP_PASS;
	listener = bpf_map_lookup_elem(&guarded, &p.listener);
	if (!listener || listener->mode == GUARD_OFF) {
		if (p.fragment == FIRST_FRAGMENT)
			remember_first(&p, YES);
		return XDP_PASS;
	}
	p.now = the_time(with);
	verdict = judge(ctx, &p, listener, is_rest, &options, with);
	return finish(ctx, &p, listener, &options, with, verdict);
}

char LICENSE[] SEC("license") = "GPL";
