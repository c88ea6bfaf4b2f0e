/* A packet of one family from its reading to its leaving. Included once for each. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

/* It cannot go on: dropped, as a router would. */
static __noinline int F(stuck)(struct __sk_buff *skb, const S(key) *key, const S(leg) *leg,
			       const struct bpf_fib_lookup *fib, long found)
{
	F(count_drop)(leg);
	if (found != BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		count(NO_ROUTE);
		return DROP;
	}
	count(TOO_BIG);
	return F(too_big)(skb, key, fib->mtu_result);
}

static __noinline int F(carry)(struct __sk_buff *skb)
{
	struct packet p = {};
	struct bpf_fib_lookup fib;
	S(key) key = {};
	S(ends) to;
	S(leg) *leg;
	__u32 now, packets, state;
	long found;
	int verdict = F(read)(skb, &p, &key);

	if (verdict != GO_ON)
		return verdict;
	leg = F(find)(&key);
	if (leg && F(begins_anew)(&p, &key, leg)) {
		F(forget)(&key, leg, EVENT_REPLACED);
		leg = 0;
	}
	if (!leg) {
		leg = F(find_ended)(&key, 0);
		if (leg && (F(is_first)(&p, leg) || F(is_foreign)(&p, leg))) {
			F(unbury)(&key);
			leg = 0;
		}
	}
	if (!leg) {
		verdict = F(first)(skb, &p, &key, &fib);
		if (verdict != GO_ON)
			return verdict;
		leg = bpf_map_lookup_elem(&F(opening), &key);
		if (!leg)
			return PASS;
	}
	if (p.hops <= 1) {
		count(EXPIRED);
		return DROP;
	}
	to = leg->ends;
	if (leg->tally.state >> HEADER_SHIFT) {
		verdict = F(adjust)(skb, &p, &key, leg);
		if (verdict) {
			count(UNUSUAL);
			if (verdict > 0)
				return PASS;
			F(count_drop)(leg);
			return DROP;
		}
	}
	found = F(route)(skb, &p, &to, &fib);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) {
		fib.mtu_result -= p.grow; /* as the sender has to see it */
		return F(stuck)(skb, &key, leg, &fib, found);
	}

	now = ticks();
	packets = skb->gso_segs;
	packets = packets ? packets : 1;
	state = leg->tally.state;
	if (!(state & (ESTABLISHED | CLOSED))) {
		if (p.flags & TCP_SYN && p.header > 20)
			F(adjust_options)(skb, &p, 0, F(most_of_links)(skb, &fib) - p.ack_less);
		verdict = F(handshake)(&p, &key, leg);
		p.is_slow = 1;
		if (verdict == PASS)
			return PASS;
		if (verdict == GO_ON) {
			F(account)(leg, &p, packets, now);
			goto out;
		}
		leg = F(find)(&key);
		if (!leg)
			return DROP;
		state = leg->tally.state;
	}
	if (p.is_tcp && p.payload && is_in_a_hole(&p, &leg->tally, now)) {
		leg->tally.seen = now;
		count(TOO_BIG);
		return F(too_big)(skb, &key, NARROW);
	}
	if ((leg->tally.seen ^ now) >> 10)
		p.is_slow = 1;
	if (!p.is_tcp) {
		p.counted = p.payload;
		__sync_fetch_and_add(&leg->tally.bytes, p.payload);
	} else if (!is_within(p.seq, leg->tally.next_seq)) {
		count(OUT_OF_WINDOW);
		goto out;
	} else if (state & CLOSED) {
		/* Sent again: all of it was counted. */
	} else if (p.flags & (TCP_SYN | TCP_FIN | TCP_RST) || state & (WATCH | FIN_SEEN) ||
		   (__s32)(p.seq - leg->tally.next_seq) > 0) {
		if (F(turn)(&p, &key, leg, packets, now))
			goto out;
	} else if (p.payload) {
		p.counted = progress(&leg->tally, p.seq + p.payload);
	}
	if (p.is_tcp && (state & TIMED || (p.is_slow && p.counted)))
		F(time)(skb, &p, &key, leg);
	F(account)(leg, &p, packets, now);
out:
	if (p.grow && F(resize)(skb, &p, &key)) {
		count(UNUSUAL);
		return DROP;
	}
	return F(send)(skb, &p, &key.ends, &to, &fib, found);
}

/* Stacks are small: what is rare has its own, beside that of the common case. */
static __always_inline int F(any)(struct __sk_buff *skb)
{
	int verdict = F(carry)(skb);

	if (verdict == IS_ICMP)
		return F(error)(skb);
	if (verdict == IS_FRAGMENT)
		return F(fragment)(skb);
	return verdict;
}
