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
static __always_inline __u32 progress(struct tally *tally, __u32 end, __u32 controls)
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
	if (more <= controls)
		return 0;
	__sync_fetch_and_add(&tally->bytes, (__u64)(more - controls));
	return more - controls;
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

/* A receiver takes RST at exactly the number that it expects; usually, but not always, that is the next that we
 * expect. Elsewhere in the window the other side's next packet will tell. */
static __always_inline int tcp_reset(struct tally *tally, struct tally *other, __u32 seq)
{
	set_bits(tally, RST_SEEN);
	if (seq == tally->next_seq)
		return close_both(tally, other);
	set_bits(other, WATCH);
	return 0;
}

/* A packet within the window that has FIN or RST, or whose side is watched. Answers if it ends the connection. */
static __always_inline int tcp_turn(struct packet *p, struct tally *tally, struct tally *other)
{
	__u32 state = tally->state;
	__u32 theirs = other->state;

	if (p->flags & TCP_RST)
		return tcp_reset(tally, other, p->seq);
	if (!(state & FIN_SEEN)) {
		__u32 fin = p->flags & TCP_FIN ? 1 : 0;
		__u32 syn = p->flags & TCP_SYN ? 1 : 0;
		__u32 end = p->seq + p->payload + fin + syn;

		p->counted = progress(tally, end, fin);
		if (fin && end == tally->next_seq) {
			set_bits(tally, FIN_SEEN);
			set_bits(other, WATCH);
		}
	}
	if (!(state & WATCH) || !(p->flags & TCP_ACK))
		return 0;
	if (theirs & RST_SEEN && !(theirs & CLOSED)) {
		clear_bits(other, RST_SEEN); /* whoever still talks was not reset */
		if (!(theirs & FIN_SEEN))
			clear_bits(tally, WATCH);
	}
	if (theirs & FIN_SEEN && p->ack == other->next_seq) {
		set_bits(other, FIN_ACKED);
		clear_bits(tally, WATCH);
		if (tally->state & FIN_ACKED)
			return close_both(tally, other);
	}
	return 0;
}
