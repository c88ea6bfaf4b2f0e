/* What a packet changes of its flow, beyond counts: handshakes, promotion, closing. Included once for each family. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

static __always_inline void F(account)(S(leg) *leg, const struct packet *p, __u32 packets, __u32 now)
{
	struct totals *sum = totals_of(index_of(&leg->tally));
	__u32 side = leg->tally.state & IS_ORIGIN_LEG ? 1 : 0;

	__sync_fetch_and_add(&leg->tally.packets, packets);
	leg->tally.seen = now;
	if (sum) {
		sum->packets[side] += packets;
		sum->bytes[side] += p->counted;
	}
}

static __always_inline void F(count_drop)(const S(leg) *leg)
{
	struct totals *sum = totals_of(index_of(&leg->tally));

	if (sum)
		sum->drops += 1;
}

/* Both ways from now on: move the legs to where nobody evicts them. */
static __noinline void F(promote)(const S(key) *key, S(leg) *client, const S(key) *back, S(leg) *origin, __u32 early)
{
	struct totals *sum = totals_of(index_of(&client->tally));
	struct openings *opens = openings_of(index_of(&client->tally));

	if (__sync_fetch_and_or(&client->tally.state, ESTABLISHED) & ESTABLISHED)
		return; /* another processor does it */
	if (opens)
		opens->two_way += 1;
	set_bits(&origin->tally, ESTABLISHED);
	if (key->protocol == IPPROTO_TCP) {
		if (sum)
			sum->connections += 1;
		origin->extra |= short_time(origin->tally.bytes) << 16;
		client->extra = ticks();
		origin->tally.bytes = early;
		origin->tally.next_seq += early;
		settle(index_of(&client->tally));
	}
	clear_bits(&origin->tally, SYN_SEEN);
	if (!(client->tally.state & TOLD) && F(tell)(EVENT_OPENED, key, client, origin))
		set_bits(&client->tally, TOLD);
	count(PROMOTED);
	if (!bpf_map_update_elem(&F(flows), key, client, BPF_ANY)) {
		if (!bpf_map_update_elem(&F(flows), back, origin, BPF_ANY)) {
			bpf_map_delete_elem(&F(opening), key);
			bpf_map_delete_elem(&F(opening), back);
			return;
		}
		bpf_map_delete_elem(&F(flows), key);
	}
	/* No room: it stays where it is and works, as long as it is not among the oldest there. */
	count(TABLE_FULL);
	if (sum)
		sum->table_full += 1;
}

/* The first answer to a datagram. In a flood of them, the sweep tells it. */
static __noinline int F(answered)(const S(key) *key, S(leg) *client, S(leg) *origin)
{
	if (origin->tally.state & SYN_SEEN)
		return 0;
	set_bits(&origin->tally, SYN_SEEN);
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < MANY_EVENTS && F(tell)(EVENT_OPENED, key, client, origin))
		set_bits(&client->tally, TOLD);
	return 0;
}

/* SYN, SYN-ACK, ACK, and RST in place of any of them. GO_ON: it is forwarded and that is all; STAYS_OPEN: the flow is
 * two-way and the packet is to be judged as one of those. */
#define STAYS_OPEN 1001
static __noinline int F(handshake)(struct packet *p, const S(key) *key, S(leg) *leg)
{
	S(leg) *other;
	S(key) back;

	F(reverse)(&back, &leg->ends, key->protocol);
	other = bpf_map_lookup_elem(&F(opening), &back);
	if (!other) {
		/* Evicted, or promoted by another processor just now. */
		return bpf_map_lookup_elem(&F(flows), key) ? STAYS_OPEN : PASS;
	}
	if (!p->is_tcp) {
		/* Two-way is who has something to say to an answer: whoever only says to be somebody hears none. */
		if (leg->tally.state & IS_ORIGIN_LEG) {
			F(answered)(&back, other, leg);
		} else if (other->tally.state & SYN_SEEN) {
			F(promote)(key, leg, &back, other, 0);
			return STAYS_OPEN;
		}
		__sync_fetch_and_add(&leg->tally.bytes, p->payload);
		p->counted = p->payload;
		return GO_ON;
	}
	if (leg->tally.state & IS_ORIGIN_LEG) {
		__u32 behind = other->tally.next_seq - p->ack;
		int acks = p->flags & TCP_ACK && behind <= 0xffff;

		if (p->flags & TCP_RST) {
			if (leg->tally.state & SYN_SEEN ? p->seq != leg->tally.next_seq : !acks)
				return GO_ON;
			set_bits(&leg->tally, RST_SEEN);
			settle(index_of(&leg->tally));
			F(forget)(key, leg, EVENT_REFUSED);
		} else if (p->flags & TCP_SYN && !(leg->tally.state & SYN_SEEN) && (acks || !(p->flags & TCP_ACK))) {
			leg->tally.next_seq = p->seq + 1;
			leg->extra = short_time(leg->extra);
			leg->tally.bytes = fine_time();
			set_bits(&leg->tally, SYN_SEEN);
		}
		return GO_ON;
	}
	if (p->flags & TCP_RST) {
		if (p->seq == leg->tally.next_seq) {
			set_bits(&leg->tally, RST_SEEN);
			settle(index_of(&leg->tally));
			F(forget)(key, leg, EVENT_REFUSED);
		}
		return GO_ON;
	}
	if (p->flags & TCP_ACK) {
		/* An origin that got data with SYN may have answered before this. */
		__u32 early = p->ack - other->tally.next_seq;

		if (!(other->tally.state & SYN_SEEN) || early > (leg->tally.bytes ? 0xffff : 0) ||
		    !is_within(p->seq, leg->tally.next_seq))
			return GO_ON;
		F(promote)(key, leg, &back, other, early);
		return STAYS_OPEN;
	}
	if (p->flags & TCP_SYN && !(other->tally.state & SYN_SEEN)) {
		if (p->seq + 1 + leg->tally.bytes != leg->tally.next_seq) {
			leg->tally.next_seq = p->seq + 1; /* it began anew before anybody answered */
			leg->tally.bytes = 0;
		}
		p->counted = progress(&leg->tally, p->seq + 1 + p->payload); /* data with SYN */
	}
	return GO_ON;
}

/* A packet of an established connection that may change its state. Answers if it was counted here and the leg is gone. */
static __noinline int F(turn)(struct packet *p, const S(key) *key, S(leg) *leg, __u32 packets, __u32 now)
{
	S(leg) *other;
	S(key) back;

	F(reverse)(&back, &leg->ends, key->protocol);
	other = F(find)(&back);
	if (!other)
		return 0;
	if (!tcp_turn(p, &leg->tally, &other->tally))
		return 0;
	F(account)(leg, p, packets, now);
	if (leg->tally.state & IS_ORIGIN_LEG)
		F(bury)(&back, other, key, leg);
	else
		F(bury)(key, leg, &back, other);
	return 1;
}
