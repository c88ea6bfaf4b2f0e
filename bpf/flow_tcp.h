/* The states of an established TCP connection, for both families: what a packet says of its side and of the other.
 *
 * Pure on two tallies; the caller finds, moves and removes entries. Sequence numbers are those of their sender: what
 * the origin acknowledges is brought back to the client's numbers before it comes here.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

static __always_inline int is_within(__u32 at, __u32 expected)
{
	__u32 off = at - expected + WINDOW;

	return off <= 2 * WINDOW;
}

/* Count what is new. Bytes that were seen before are a retransmission. */
static __always_inline __u32 progress(struct tally *tally, __u32 end)
{
	__u32 expected = tally->next_seq;
	__s32 more = end - expected;

	if (more <= 0)
		return 0;
	/* Two processors may have packets of one direction: whoever moves the number counts what it moved. */
	if (__sync_val_compare_and_swap(&tally->next_seq, expected, end) != expected) {
		expected = tally->next_seq;
		more = end - expected;
		if (more <= 0 || __sync_val_compare_and_swap(&tally->next_seq, expected, end) != expected)
			return 0;
	}
	__sync_fetch_and_add(&tally->bytes, (__u64)more);
	return more;
}

/* Is a large segment sent once more, after a silence as of a time-out? Then a link on its way may be narrow without saying
 * so. Time-outs double: every other one is believed to be that, so that the segment gets through where it was not. */
static __always_inline int is_in_a_hole(const struct packet *p, const struct tally *tally, __u32 now)
{
	__u32 silence = now - tally->seen;

	if (silence < SILENCE || p->segment <= NARROW || (__s32)(p->seq + p->payload - tally->next_seq) > 0)
		return 0;
	return silence < 2 * SILENCE || (silence >= 4 * SILENCE && silence < 8 * SILENCE) ||
	       (silence >= 16 * SILENCE && silence < 32 * SILENCE);
}

/* Only one packet ends a connection: the client's leg decides which. */
static __always_inline int close_both(struct tally *tally, struct tally *other)
{
	struct tally *first = tally->state & IS_ORIGIN_LEG ? other : tally;
	__u32 before = __sync_fetch_and_or(&first->state, CLOSED);

	set_bits(tally, CLOSED);
	set_bits(other, CLOSED);
	return !(before & CLOSED);
}

/* A receiver takes RST at exactly the number that it expects. That is mostly the next that we expect, or, if something
 * was lost behind us, an earlier one: then the other side's next packet will tell. A later one is nobody's. */
static __always_inline int tcp_reset(struct tally *tally, struct tally *other, __u32 seq)
{
	__s32 ahead = seq - tally->next_seq;

	if (ahead > 0)
		return 0;
	set_bits(tally, RST_SEEN);
	if (!ahead)
		return close_both(tally, other);
	set_bits(other, WATCH);
	return 0;
}

/* Is what a packet acknowledges something that the other side has sent, not too long ago? */
static __always_inline int is_plausible(const struct packet *p, const struct tally *other)
{
	return p->flags & TCP_ACK && other->next_seq - p->ack <= WINDOW;
}

/* Payload or FIN. Whoever is right says so last: a FIN stands at its sender's end, and not before what that sends. */
static __always_inline void tcp_progress(struct packet *p, struct tally *tally, struct tally *other)
{
	__u32 fin = p->flags & TCP_FIN ? 1 : 0, had_fin = tally->state & FIN_SEEN ? 1 : 0;
	__u32 end = p->seq + p->payload + fin, expected = tally->next_seq;
	__s32 more = end - expected;

	if (tally->state & FIN_ACKED || !(fin ? more : more > 0) || (__s64)tally->bytes + more + had_fin < fin)
		goto flags;
	/* Two processors may have packets of one direction: whoever moves the number counts what it moved. */
	if (__sync_val_compare_and_swap(&tally->next_seq, expected, end) == expected) {
		more += had_fin - fin;
		__sync_fetch_and_add(&tally->bytes, (__s64)more);
		p->counted = more;
		if (!fin && had_fin)
			clear_bits(tally, FIN_SEEN);
	}
flags:
	if (fin && end == tally->next_seq && !had_fin) {
		set_bits(tally, FIN_SEEN);
		set_bits(other, WATCH);
	}
}

/* A packet within the window that has FIN or RST, is ahead of what was seen, or whose side is watched. Answers if it
 * ends the connection. */
static __always_inline int tcp_turn(struct packet *p, struct tally *tally, struct tally *other)
{
	__u32 theirs = other->state;

	if (p->flags & TCP_RST)
		return tcp_reset(tally, other, p->seq);
	if (!is_plausible(p, other)) {
		count(OUT_OF_WINDOW);
		return 0;
	}
	if (!(p->flags & TCP_SYN) && (p->payload || p->flags & TCP_FIN))
		tcp_progress(p, tally, other);
	if (!(tally->state & WATCH))
		return 0;
	if (theirs & RST_SEEN && !(theirs & CLOSED))
		clear_bits(other, RST_SEEN); /* whoever still talks was not reset */
	if (!(theirs & FIN_SEEN)) {
		clear_bits(tally, WATCH);
	} else if (p->ack == other->next_seq) {
		set_bits(other, FIN_ACKED);
		clear_bits(tally, WATCH);
		if (tally->state & FIN_ACKED)
			return close_both(tally, other);
	}
	return 0;
}
