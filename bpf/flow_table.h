/* The tables of one family, and what is told of its flows. Included once for each family. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

struct {
	__uint(type, BPF_MAP_TYPE_HASH); /* established flows are never evicted */
	__uint(max_entries, 2 * 32768);
	__type(key, S(key));
	__type(value, S(leg));
} F(flows) SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* one-way flows are: the oldest first */
	__uint(max_entries, 2 * 32768);
	__type(key, S(key));
	__type(value, S(leg));
} F(opening) SEC(".maps");

/* Both legs of flows whose end was told, for what is sent again, until others come to have their places: nobody has to
 * take them out, and it takes no lock and no list to put one there. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ENDED);
	__type(key, __u32);
	__type(value, S(ended));
} F(ended) SEC(".maps");

/* Stacks are small. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, S(draft));
} F(drafts) SEC(".maps");

static __always_inline void F(swap)(S(ends) *out, const S(ends) *in)
{
#pragma unroll
	for (int i = 0; i < WORDS; i++) {
		out->saddr[i] = in->daddr[i];
		out->daddr[i] = in->saddr[i];
	}
	out->sport = in->dport;
	out->dport = in->sport;
}

/* The key under which packets of the other direction are found. */
static __always_inline void F(reverse)(S(key) *key, const S(ends) *becomes, __u8 protocol)
{
	F(swap)(&key->ends, becomes);
	key->protocol = protocol;
	key->unused[0] = key->unused[1] = key->unused[2] = 0;
}

static __always_inline S(leg) *F(find)(const S(key) *key)
{
	S(leg) *leg = bpf_map_lookup_elem(&F(flows), key);

	return leg ? leg : bpf_map_lookup_elem(&F(opening), key);
}

static __always_inline S(ended) *F(place)(const S(key) *key)
{
	__u32 at = mix(ports_of(key->ends.sport, key->ends.dport), key->protocol);

#pragma unroll
	for (int i = 0; i < WORDS; i++)
		at = mix(mix(at, key->ends.saddr[i]), key->ends.daddr[i]);
	at &= ENDED - 1;
	return bpf_map_lookup_elem(&F(ended), &at);
}

static __always_inline int F(same)(const S(key) *one, const S(key) *other)
{
	const __u64 *words = (const __u64 *)one, *others = (const __u64 *)other;
	__u64 bits = 0;

#pragma unroll
	for (int i = 0; i < sizeof(*one) / 8; i++)
		bits |= words[i] ^ others[i];
	return !bits;
}

/* A leg of a flow that is over, as a copy of this processor's; there are two, for both legs of one. */
static __noinline S(leg) *F(find_ended)(const S(key) *key, __u32 which)
{
	S(ended) *it = F(place)(key);
	__u32 zero = 0, turn;
	S(draft) *draft;
	S(leg) *copy;

	if (!it || !F(same)(&it->key, key))
		return 0;
	draft = bpf_map_lookup_elem(&F(drafts), &zero);
	if (!draft)
		return 0;
	/* An atomic operation that answers is a fence: what is copied was there between the two. */
	turn = __sync_fetch_and_add(&it->turn, 0);
	copy = &draft->ended[which & 1];
	*copy = it->leg;
	if (turn & 1 || !F(same)(&it->key, key) || __sync_fetch_and_add(&it->turn, 0) != turn)
		return 0; /* another's by now */
	return copy;
}

/* Also of a flow that is over. The other leg of what is being looked at: see find_ended(). */
static __always_inline S(leg) *F(find_other)(const S(key) *key)
{
	S(leg) *leg = F(find)(key);

	return leg ? leg : F(find_ended)(key, 1);
}

/* Who comes while another writes there goes without. A leg of nobody: the place is empty then. */
static __noinline int F(keep)(const S(key) *key, const S(leg) *leg)
{
	S(ended) *it = F(place)(key);
	__u32 turn;

	if (!it)
		return 0;
	turn = *(volatile __u32 *)&it->turn;
	if (turn & 1 || (!leg && !F(same)(&it->key, key)) || __sync_val_compare_and_swap(&it->turn, turn, turn + 1) != turn)
		return 0;
	if (leg) {
		it->key = *key;
		it->leg = *leg;
	} else {
		it->key.protocol = 0;
	}
	__sync_fetch_and_add(&it->turn, 1);
	return 1;
}

/* Answers whether the ring had room. */
static __noinline int F(tell)(__u8 kind, const S(key) *client_key, const S(leg) *client, const S(leg) *origin)
{
	S(event) *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(EVENT_LOST);
		return 0;
	}
	event->kind = kind;
	event->is_ipv6 = WORDS == 4;
	event->application = index_of(&client->tally);
	event->at = ticks();
	event->client_key = *client_key;
	event->client = *client;
	event->origin = *origin;
	bpf_ringbuf_submit(event, 0);
	return 1;
}

static __always_inline void F(take_out)(const S(key) *key)
{
	if (bpf_map_delete_elem(&F(flows), key))
		bpf_map_delete_elem(&F(opening), key);
}

/* The end of a flow: told, and its legs are out of the way. Where the ring is full they stay, for the sweep to tell of.
 * Neither leg is the caller's any more. */
static __noinline int F(bury)(const S(key) *client_key, const S(leg) *client, const S(key) *origin_key,
			      const S(leg) *origin)
{
	if (!F(tell)(EVENT_CLOSED, client_key, client, origin))
		return 0;
	F(keep)(client_key, client);
	F(keep)(origin_key, origin);
	F(take_out)(client_key);
	F(take_out)(origin_key);
	return 1;
}

/* Another flow is to have these addresses and ports. */
static __noinline int F(unbury)(const S(key) *key)
{
	S(leg) *leg = F(find_ended)(key, 1);
	__u32 zero = 0;
	S(draft) *draft = bpf_map_lookup_elem(&F(drafts), &zero);

	if (!leg || !draft)
		return 0;
	F(reverse)(&draft->other, &leg->ends, key->protocol);
	F(keep)(&draft->other, 0);
	F(keep)(key, 0);
	return 1;
}

/* Take out both legs, whichever of them this is, and tell it. */
static __noinline int F(forget)(const S(key) *key, const S(leg) *leg, __u8 kind)
{
	S(key) this = *key, back;
	S(leg) *other;

	F(reverse)(&back, &leg->ends, key->protocol);
	other = F(find)(&back);
	if (other && leg->tally.state & IS_ORIGIN_LEG)
		F(tell)(kind, &back, other, leg);
	else if (other)
		F(tell)(kind, &this, leg, other);
	bpf_map_delete_elem(&F(flows), &back);
	bpf_map_delete_elem(&F(opening), &back);
	bpf_map_delete_elem(&F(flows), &this);
	bpf_map_delete_elem(&F(opening), &this);
	return 0;
}
