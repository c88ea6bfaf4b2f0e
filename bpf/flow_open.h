/* A first packet opens a flow: application, origin, source port, both legs. Included once for each family. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#ifndef PORT_TRIES
#define PORT_TRIES 128
#define PATIENT_TRIES 4
#endif

static __always_inline __u32 F(hash)(const __be32 *address, __u32 hash)
{
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		hash = mix(hash, address[i]);
	return hash;
}

static __always_inline int F(differ)(const __be32 *one, const __be32 *other)
{
	__u32 bits = 0;

#pragma unroll
	for (int i = 0; i < WORDS; i++)
		bits |= one[i] ^ other[i];
	return bits != 0;
}

static __noinline struct application *F(application)(const S(key) *key, __u32 *index)
{
	struct spot spot = { .protocol = key->protocol, .is_ipv6 = WORDS == 4 };
	struct listeners *table;

	__builtin_memcpy(spot.address_be, key->ends.daddr, 4 * WORDS);
	table = bpf_map_lookup_elem(&listeners, &spot);
	if (!table)
		return 0;
	*index = table->application[bpf_ntohs(key->ends.dport)];
	if (!*index)
		return 0;
	return bpf_map_lookup_elem(&applications, index);
}

static __always_inline struct origin *F(choose)(struct application *application, __u32 *index, const S(key) *key)
{
	__u32 hash = F(hash)(key->ends.saddr, 0), choice;
	struct balance *balance = bpf_map_lookup_elem(&balances, index);
	struct origin *origin;
	__u64 slot;

	if (balance) {
		slot = mix(hash, 0) % SLOTS;
		asm volatile("" : "+r"(slot)); /* as in one_to() */
		choice = balance->choices[slot & 0xffff];
	} else {
		choice = application->choices[hash & (CHOICES - 1)];
	}
	choice &= MAX_ORIGINS - 1;
	origin = &application->origins[choice];

	return choice < application->origin_count && origin->is_ipv6 == (WORDS == 4) ? origin : 0;
}

/* A flow whose client has not been heard of again for so long, in fine time, may make room: a flood of first packets has
 * ports of its own oldest ones. The further the search goes, the younger; 0 for none. */
#define STRAIN 16
#define MOST_STRAIN (STRAIN + 12)
static __always_inline __u32 F(age_to_give_way)(__u32 try)
{
	if (try < STRAIN)
		return 0;
	return try < STRAIN + 8 ? 1000 * FINE_OF_A_MILLISECOND : try < STRAIN + 16 ? 100 * FINE_OF_A_MILLISECOND : 1;
}

/* For how long the flow of an origin's leg waits for its client, or for its origin. */
static __always_inline __u32 F(waits)(const S(leg) *leg, int is_tcp)
{
	if (!(leg->tally.state & SYN_SEEN))
		return fine_time() - leg->extra;
	return is_tcp ? fine_time() - (__u32)leg->tally.bytes : (ticks() - leg->tally.seen) << (TICK_SHIFT - FINE_SHIFT) | 1;
}

/* Does the origin see the client's own address and port? They cannot be another flow's in the meantime. */
static __always_inline int F(is_transparent)(const S(draft) *draft)
{
	return draft->key.ends.dport == draft->leg.ends.dport && !F(differ)(draft->key.ends.daddr, draft->leg.ends.daddr);
}

/* What an opening flow has of a client whose own address and port another one is to show the origin. Answers whether
 * that may have it: it is what is left of itself, or of one that nobody hears of any more. */
static __always_inline int F(is_left_behind)(S(draft) *draft, const S(leg) *there)
{
	if (there->ends.sport == draft->leg.ends.sport && !F(differ)(there->ends.saddr, draft->leg.ends.saddr))
		return 1;
	F(reverse)(&draft->other, &there->ends, draft->key.protocol);
	return !F(find)(&draft->other) &&
	       F(waits)(there, draft->key.protocol == IPPROTO_TCP) >= 1000 * FINE_OF_A_MILLISECOND;
}

/* Put the origin's leg, which is the draft, into the table if nobody has its addresses and ports, or nobody who is to
 * keep them. */
__noinline int F(claim)(__u32 try) /* global: the verifier looks at it once */
{
	__u32 zero = 0, age = F(age_to_give_way)(try);
	S(draft) *draft = bpf_map_lookup_elem(&F(drafts), &zero);
	S(key) *key, *client;
	S(leg) *there, *other;

	if (!draft)
		return 0;
	key = &draft->key;
	client = &draft->other;
	there = bpf_map_lookup_elem(&F(opening), key);
	if (there) {
		int is_tcp = key->protocol == IPPROTO_TCP;

		if (F(is_transparent)(draft))
			return F(is_left_behind)(draft, there) &&
			       !bpf_map_update_elem(&F(opening), key, &draft->leg, BPF_ANY);
		/* A client that is far away needs its time to finish a handshake. */
		if (is_tcp && there->tally.state & SYN_SEEN)
			age = age ? 1000 * FINE_OF_A_MILLISECOND : 0;
		if (!age || there->tally.state & ESTABLISHED || F(waits)(there, is_tcp) < age)
			return 0;
		F(reverse)(client, &there->ends, key->protocol);
		other = bpf_map_lookup_elem(&F(opening), client);
		if (other && other->ends.sport == key->ends.dport) { /* else it has begun another meanwhile */
			if (other->tally.state & TOLD && !F(tell)(EVENT_REPLACED, client, other, there))
				return 0;
			bpf_map_delete_elem(&F(opening), client);
		}
		bpf_map_delete_elem(&F(opening), key);
		count(RECLAIMED);
	}
	if (bpf_map_update_elem(&F(opening), key, &draft->leg, BPF_NOEXIST))
		return 0;
	/* In this order: a flow that is promoted meanwhile is in one of the tables at any time. */
	there = bpf_map_lookup_elem(&F(flows), key);
	if (!there)
		return 1;
	/* What is closed keeps them for a second, for what is sent again, unless others are hard to find. */
	if (there->tally.state & CLOSED && (try >= PATIENT_TRIES || ticks() - there->tally.seen > TICKS_OF_A_SECOND)) {
		F(reverse)(client, &there->ends, key->protocol);
		other = bpf_map_lookup_elem(&F(flows), client);
		if (other)
			F(tell)(EVENT_REPLACED, client, other, there);
		bpf_map_delete_elem(&F(flows), client);
		bpf_map_delete_elem(&F(flows), key);
		count(RECLAIMED);
		return 1;
	}
	bpf_map_delete_elem(&F(opening), key);
	return 0;
}

/* Find a source address and port for the flow. The first try is the same for the same client, its port included, so
 * that the origin's TIME_WAIT treats a client that comes again as it would without us. `origin_key` is the draft's. */
static __always_inline int F(allocate)(const struct origin *origin, const S(key) *key, S(key) *origin_key,
				       __u32 application)
{
	struct pressure *pressure = pressure_of(application);
	__u32 strain = pressure ? pressure->strain : 0;
	__u32 sources = origin->source_count & (2 * MAX_SOURCES - 1);
	__u32 hash = F(hash)(origin_key->ends.saddr, F(hash)(key->ends.daddr, F(hash)(key->ends.saddr, key->ends.dport)));
	__u32 all = source_count * sources;
	__u32 step = all > PORT_TRIES ? hash >> 3 | 1 : 1;
	__u32 at = bpf_ntohs(key->ends.sport) + hash;

	if (!sources)
		return F(claim)(PATIENT_TRIES); /* the client's own */
	for (__u32 i = 0; i < PORT_TRIES; i++) {
		__u32 which, port;

		which = (hash + i) % sources & (MAX_SOURCES - 1);
		port = source_first + (at + i / sources * step) % source_count;
		__builtin_memcpy(origin_key->ends.daddr, origin->sources[which], 4 * WORDS);
		origin_key->ends.dport = bpf_htons(port);
		if (F(claim)(i + strain)) {
			/* What one has learnt, the next need not. */
			if (pressure && i >= PATIENT_TRIES)
				pressure->strain = i + strain < MOST_STRAIN ? i + strain : MOST_STRAIN;
			else if (pressure && !i && strain)
				pressure->strain = strain - 1;
			return 1;
		}
	}
	return 0;
}

/* Is the flow one that nobody answers, while new ones go to another origin? Then its next SYN is a new one too. */
static __noinline int F(is_shunned)(const S(key) *key, const S(leg) *leg)
{
	struct application *application;
	struct origin *origin;
	S(leg) *other;
	S(key) back;
	__u32 index;

	F(reverse)(&back, &leg->ends, key->protocol);
	other = bpf_map_lookup_elem(&F(opening), &back);
	if (!other)
		return 1;
	if (other->tally.state & (SYN_SEEN | ESTABLISHED))
		return 0;
	application = F(application)(key, &index);
	if (!application)
		return 0;
	origin = F(choose)(application, &index, key);
	return origin && F(differ)(origin->address, leg->ends.daddr);
}

static __always_inline int F(is_first)(const struct packet *p, const S(leg) *leg)
{
	return p->is_tcp ? (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN : !(leg->tally.state & IS_ORIGIN_LEG);
}

/* Of a flow that is over, the client's port is another connection's by now: one whose SYN did not come by here, but was
 * answered with a cookie by the guard or the stack. What belongs to the old one is never ahead of it (RFC 6191: who
 * takes a port anew begins further on). */
static __always_inline int F(is_foreign)(const struct packet *p, const S(leg) *leg)
{
	return p->is_tcp && !(leg->tally.state & IS_ORIGIN_LEG) && leg->tally.next_seq - p->seq > WINDOW;
}

/* Is the packet the first one of another flow than that which has its addresses and ports? */
static __always_inline int F(begins_anew)(const struct packet *p, const S(key) *key, const S(leg) *leg)
{
	__u32 state = leg->tally.state;
	int is_first = F(is_first)(p, leg);

	if (state & CLOSED)
		return is_first || F(is_foreign)(p, leg);
	return p->is_tcp && is_first && !(state & (IS_ORIGIN_LEG | ESTABLISHED)) && F(is_shunned)(key, leg);
}

/* GO_ON: the flow is among the opening ones now. */
static __noinline int F(first)(struct __sk_buff *skb, struct packet *p, const S(key) *key,
			       struct bpf_fib_lookup *fib)
{
	struct application *application;
	struct origin *origin;
	struct openings *opens;
	struct totals *sum;
	S(draft) *draft;
	__u32 index = 0;
	long found;
	int otherwise; /* the engine can, but not in the client's name */

	draft = bpf_map_lookup_elem(&F(drafts), &index);
	application = F(application)(key, &index);
	if (!draft || !application || application->protocol != key->protocol)
		return PASS;
	if (p->is_tcp && (p->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) != TCP_SYN) {
		count(STRAYED);
		return PASS;
	}
	if (application->header && (p->is_fragment || skb->gso_size || (p->is_tcp && p->payload)))
		return PASS; /* the engine can */
	origin = F(choose)(application, &index, key);
	if (!origin)
		return PASS;
	otherwise = origin->source_count ? PASS : DROP;
	/* A transparent flow takes no port of ours, and nobody stands behind it. */
	if (p->is_tcp && origin->source_count && is_pressed(index)) {
		count(PRESSED);
		opens = openings_of(index);
		if (opens)
			opens->pressed += 1;
		return PASS;
	}

	F(unbury)(key);
	/* What the origin will send, */
	__builtin_memset(draft, 0, offsetof(S(draft), ended));
	__builtin_memcpy(draft->key.ends.saddr, origin->address, 4 * WORDS);
	if (origin->source_count) {
		__builtin_memcpy(draft->key.ends.daddr, origin->sources[0], 4 * WORDS);
	} else {
		__builtin_memcpy(draft->key.ends.daddr, key->ends.saddr, 4 * WORDS);
		draft->key.ends.dport = key->ends.sport;
	}
	draft->key.ends.sport = bpf_htons(origin->first_port + bpf_ntohs(key->ends.dport) - application->edge_first_port);
	draft->key.protocol = key->protocol;
	F(swap)(&draft->leg.ends, &draft->key.ends);
	found = F(route)(skb, p, &draft->leg.ends, fib);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH &&
	    found != BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		count(NO_ROUTE);
		return otherwise; /* to the engine, which says why not */
	}
	/* what that becomes, */
	F(swap)(&draft->leg.ends, &key->ends);
	draft->leg.extra = fine_time();
	draft->leg.tally.state = index | IS_ORIGIN_LEG | F(header_of)(application->header, key, 0);
	sum = totals_of(index);
	if (!F(allocate)(origin, key, &draft->key, index)) {
		F(swap)(&draft->leg.ends, &draft->key.ends);
		draft->leg.tally.state = index;
		/* All are counted; of a flood the first is told, and few others. */
		if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < FEW_EVENTS || !sum || !(sum->exhausted & 63))
			F(tell)(EVENT_EXHAUSTED, key, &draft->leg, &draft->leg);
		if (sum)
			sum->exhausted += 1;
		count(EXHAUSTED);
		return DROP;
	}
	F(unbury)(&draft->key); /* here and not in claim(): the stacks of a chain of calls are 512 bytes at most */
	/* and what the client's becomes. */
	F(swap)(&draft->leg.ends, &draft->key.ends);
	draft->leg.extra = ticks();
	draft->leg.tally.seen = draft->leg.extra;
	draft->leg.tally.next_seq = p->seq + 1;
	draft->leg.tally.state = index | F(header_of)(application->header, key, 1);
	if (bpf_map_update_elem(&F(opening), key, &draft->leg, BPF_NOEXIST)) {
		/* Another processor has opened it, from another port unless it is the client's own. */
		if (origin->source_count)
			bpf_map_delete_elem(&F(opening), &draft->key);
		return GO_ON;
	}
	count(OPENED);
	opens = openings_of(index);
	if (opens)
		opens->opened += 1;
	if (!p->is_tcp && sum)
		sum->connections += 1;
	return GO_ON;
}
