/* The header by which the origin is told of the client, put in front of what the client sends. Included once for each
 * family.
 *
 * TCP: the packet that completes the client's handshake grows by the header, so that a loss is repaired by the origin's
 * SYN-ACK. Until the origin has acknowledged it, it goes along whenever the client sends its first byte (or an ACK
 * before it) again. From then on the client's sequence numbers are moved by its length. UDP: datagrams grow.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#undef HEADER_SENT
#define HEADER_SENT TOLD /* on the origin's leg */

/* Write the header of a flow by its length. */
__noinline __u32 F(compose)(const S(key) *key, __u32 bytes)
{
	struct scratch *scratch = scratch_of_processor();
	__u8 *text;

	if (!scratch || !key)
		return 0;
	text = scratch->text;
	__builtin_memset(text, 0, MOST_TEXT);
	if (bytes == SIMPLE_BYTES && key->protocol == IPPROTO_UDP) {
		text[0] = 0x56;
		text[1] = 0xec;
#if FAMILY == 4
		text[12] = text[13] = text[28] = text[29] = 0xff; /* mapped into IPv6 */
		__builtin_memcpy(text + 14, key->ends.saddr, 4);
		__builtin_memcpy(text + 30, key->ends.daddr, 4);
#else
		__builtin_memcpy(text + 2, key->ends.saddr, 16);
		__builtin_memcpy(text + 18, key->ends.daddr, 16);
#endif
		__builtin_memcpy(text + 34, &key->ends.sport, 2);
		__builtin_memcpy(text + 36, &key->ends.dport, 2);
		return SIMPLE_BYTES;
	}
	__u8 transport = key->protocol == IPPROTO_TCP ? 1 : 2;
#if FAMILY == 4
	if (bytes != V2_IPV4)
		return v1_4(scratch, &key->ends);
	v2(text, 0x10 | transport, 12);
	__builtin_memcpy(text + 16, &key->ends, 12);
	return V2_IPV4;
#else
	if (bytes != V2_IPV6)
		return v1_6(scratch, &key->ends);
	v2(text, 0x20 | transport, 36);
	__builtin_memcpy(text + 16, &key->ends, 36);
	return V2_IPV6;
#endif
}

/* The bits that the legs of a new flow get. */
static __always_inline __u32 F(header_of)(__u32 header, const S(key) *key, int is_client_leg)
{
	const __u32 v2_bytes = WORDS == 1 ? V2_IPV4 : V2_IPV6;

	if (!header)
		return 0;
	if (key->protocol == IPPROTO_TCP) {
		if (header == SIMPLE)
			return 0;
		if (header != PROXY_V1)
			return v2_bytes << HEADER_SHIFT | HEADER_PENDING;
		return (F(compose)(key, 0) & HEADER_BYTES) << HEADER_SHIFT | HEADER_PENDING;
	}
	if (header == SIMPLE)
		return SIMPLE_BYTES << HEADER_SHIFT | HEADER_PENDING;
	if (header == PROXY_V1 || !is_client_leg)
		return 0;
	return v2_bytes << HEADER_SHIFT | (header == PROXY_V2_EVERY ? HEADER_PENDING : 0);
}

/* Sequence numbers in the options of what the origin sends: its largest segment leaves room, SACK speaks of the
 * client's numbers. */
__noinline int F(adjust_options)(struct __sk_buff *skb, struct packet *p, __u32 more, __u32 most)
{
	struct scratch *scratch = scratch_of_processor();
	__u64 length;
	__u32 at = 0;
	__u8 *options;

	if (!p)
		return 0;
	if (!scratch || p->header < 24 || p->header > 60)
		return 0;
	length = one_to(64, p->header - 20);
	options = scratch->options[1];
	if (bpf_skb_load_bytes(skb, L4 + 20, scratch->options[0], length))
		return -1;
	if (length == 12 && *(__u32 *)scratch->options[0] == bpf_htonl(0x0101080a))
		return 0; /* a timestamp, as mostly */
	__builtin_memcpy(options, scratch->options[0], 40);
	for (int i = 0; i < 16; i++) {
		__u32 size;

		if (at + 1 >= length || !OPTION(scratch, at))
			break;
		if (OPTION(scratch, at) == 1) {
			at += 1;
			continue;
		}
		size = OPTION(scratch, at + 1);
		if (size < 2 || at + size > length)
			break;
		if (OPTION(scratch, at) == 2 && size == 4 && p->flags & TCP_SYN)
			lower_mss(at, more, most);
		if (OPTION(scratch, at) == 5)
			lower_sack(at, more);
		/* Multipath TCP knows of numbers and addresses that change here; without it the ends speak plain TCP. */
		if (OPTION(scratch, at) == 30 && p->flags & TCP_SYN)
			blank_option(at, size);
		at += size;
	}
	p->plain = bpf_csum_diff((__be32 *)scratch->options[0], length, (__be32 *)options, length, p->plain);
	return bpf_skb_store_bytes(skb, L4 + 20, options, length, 0);
}

/* Does the Simple Proxy header at `at` name the client that the datagram is for? */
__noinline int F(is_answer_to)(struct __sk_buff *skb, const S(key) *client, __u32 at)
{
	struct scratch *scratch = scratch_of_processor();

	if (!scratch || !client || bpf_skb_load_bytes(skb, at, scratch->chunk, SIMPLE_BYTES) ||
	    F(compose)(client, SIMPLE_BYTES) != SIMPLE_BYTES)
		return 0;
	for (int i = 0; i < SIMPLE_BYTES; i++) {
		if (scratch->chunk[i] != scratch->text[i])
			return 0;
	}
	return 1;
}

/* What the header changes of a packet: decided before it is routed. Answers 0, or -1: it has to be dropped, or 1: it
 * is the engine's. */
static __noinline int F(adjust)(struct __sk_buff *skb, struct packet *p, const S(key) *key, S(leg) *leg)
{
	__u32 state = leg->tally.state, more = state >> HEADER_SHIFT & HEADER_BYTES, after;
	S(leg) *other, *client;
	S(key) back;

	if (!p->is_tcp) {
		/* Many in one, each of which needs its own: the engine can do that, at the cost of a flow of its own. */
		if (skb->gso_size)
			return state & IS_ORIGIN_LEG ? -1 : 1;
		if (p->segment != L4 - ETH_HLEN + p->header + p->payload)
			return -1; /* not all of it is the datagram */
		if (!(state & IS_ORIGIN_LEG)) {
			p->grow = more;
			if (!(state & HEADER_PENDING))
				clear_bits(&leg->tally, HEADER_BYTES << HEADER_SHIFT); /* before the first one only */
			return 0;
		}
		if (!more)
			return 0;
		F(reverse)(&back, &leg->ends, key->protocol);
		if (p->payload < more || !F(is_answer_to)(skb, &back, L4 + p->header))
			return -1;
		p->payload -= more;
		p->grow = -(int)more;
		return 0;
	}
	if (!(state & HEADER_PENDING)) {
		if (!(state & IS_ORIGIN_LEG)) {
			p->seq_more = more;
			return 0;
		}
		p->ack -= more;
		p->ack_less = more;
		return p->header > 20 ? F(adjust_options)(skb, p, more, 0xffff) : 0;
	}
	F(reverse)(&back, &leg->ends, key->protocol);
	other = F(find_other)(&back);
	if (!other)
		return 0;
	client = state & IS_ORIGIN_LEG ? other : leg;
	/* How far behind the client's first byte. */
	after = client->tally.next_seq - (__u32)client->tally.bytes - !!(client->tally.state & FIN_SEEN);
	if (state & IS_ORIGIN_LEG) {
		if (p->flags & TCP_ACK) {
			__u32 acked = p->ack - after;

			p->ack_less = more;
			if (acked < more) {
				p->ack = after;
			} else if (acked < 1u << 31) {
				p->ack -= more;
				clear_bits(&leg->tally, HEADER_PENDING);
				clear_bits(&other->tally, HEADER_PENDING);
			}
		}
		return p->header > 20 ? F(adjust_options)(skb, p, more, 0xffff) : 0;
	}
	after = p->seq - after;
	if (p->flags & TCP_SYN || after >= 1u << 31)
		return 0;
	p->seq_more = more;
	if (after || !(p->flags & TCP_ACK))
		return 0;
	if (p->flags & TCP_RST) {
		if (!(other->tally.state & HEADER_SENT))
			p->seq_more = 0;
		return 0;
	}
	if (!(state & ESTABLISHED) && (!(other->tally.state & SYN_SEEN) || p->ack != other->tally.next_seq)) {
		p->seq_more = 0;
		return 0; /* the origin is not there yet */
	}
	if (p->payload && other->tally.state & HEADER_SENT && (__s32)(p->seq + p->payload - leg->tally.next_seq) > 0)
		return 0; /* new data behind a header that is on its way */
	if (skb->gso_size)
		return -1; /* it comes again, in smaller pieces */
	set_bits(&other->tally, HEADER_SENT);
	p->seq_more = 0;
	p->grow = more;
	return 0;
}

/* Make room in front of the payload and put the header there, or take it away from there. */
__noinline int F(resize)(struct __sk_buff *skb, struct packet *p, const S(key) *key)
{
	struct scratch *scratch = scratch_of_processor();
	__u32 payload, begin, sum;
	int grow;

	if (!p || !key)
		return -1;
	payload = p->payload;
	begin = L4 + p->header;
	grow = p->grow;
	if (!scratch || payload > 72 * CHUNK || begin > L4 + 60)
		return -1;
	if (grow > 0) {
		__u64 more = one_to(MOST_TEXT, grow);
		__u32 odd = 0, last;

		if (bpf_skb_change_tail(skb, begin + payload + more, 0))
			return -1;
		for (__u64 i = 0; i < 72; i++) {
			__u64 bytes;

			if (!payload)
				break;
			last = (payload - 1) & ~(CHUNK - 1);
			bytes = one_to(CHUNK, payload - last);
			if (more & 1) { /* every byte of it changes its place in the checksum's words */
				__builtin_memset(scratch->chunk, 0, CHUNK);
			}
			if (bpf_skb_load_bytes(skb, begin + last, scratch->chunk, bytes) ||
			    bpf_skb_store_bytes(skb, begin + last + more, scratch->chunk, bytes, 0))
				return -1;
			if (more & 1)
				odd = bpf_csum_diff(0, 0, (__be32 *)scratch->chunk, CHUNK, odd);
			payload = last;
		}
		if (F(compose)(key, more) != more)
			return -1;
		if (bpf_skb_store_bytes(skb, begin, scratch->text, more, 0))
			return -1;
		p->plain = bpf_csum_diff(0, 0, (__be32 *)scratch->text, MOST_TEXT, p->plain);
		if (more & 1) {
			sum = fold16(odd);
			p->plain = fold32((__u64)p->plain + (__u32)~sum + __builtin_bswap16(sum));
		}
		return 0;
	}
	/* An answer in a Simple Proxy header. */
	if (bpf_skb_load_bytes(skb, begin, scratch->text, SIMPLE_BYTES))
		return -1;
	scratch->text[SIMPLE_BYTES] = scratch->text[SIMPLE_BYTES + 1] = 0;
	sum = bpf_csum_diff((__be32 *)scratch->text, SIMPLE_BYTES + 2, 0, 0, 0);
	p->plain = sum;
	for (__u64 i = 0; i < 72; i++) {
		__u64 at = i * CHUNK;
		__u64 bytes;

		if (at >= payload)
			break;
		bytes = payload - at;
		bytes = one_to(CHUNK, bytes > CHUNK ? CHUNK : bytes);
		if (bpf_skb_load_bytes(skb, begin + SIMPLE_BYTES + at, scratch->chunk, bytes) ||
		    bpf_skb_store_bytes(skb, begin + at, scratch->chunk, bytes, 0))
			return -1;
	}
	return bpf_skb_change_tail(skb, begin + payload, 0);
}
