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

/* Both legs of flows whose end was told, for what is sent again: nobody has to take them out. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2 * 16384);
	__type(key, S(key));
	__type(value, S(leg));
} F(closed) SEC(".maps");

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

/* Also of a flow that is over. */
static __always_inline S(leg) *F(find_any)(const S(key) *key)
{
	S(leg) *leg = F(find)(key);

	return leg ? leg : bpf_map_lookup_elem(&F(closed), key);
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

/* The end of a flow: told, and its legs are out of the way. Where the ring is full they stay, for the sweep to tell of.
 * Neither leg is the caller's any more. */
static __noinline int F(bury)(const S(key) *client_key, const S(leg) *client, const S(key) *origin_key,
			      const S(leg) *origin)
{
	if (!F(tell)(EVENT_CLOSED, client_key, client, origin))
		return 0;
	bpf_map_update_elem(&F(closed), client_key, client, BPF_ANY);
	bpf_map_update_elem(&F(closed), origin_key, origin, BPF_ANY);
	bpf_map_delete_elem(&F(flows), client_key);
	bpf_map_delete_elem(&F(opening), client_key);
	bpf_map_delete_elem(&F(flows), origin_key);
	bpf_map_delete_elem(&F(opening), origin_key);
	return 1;
}

/* Another flow is to have these addresses and ports. */
static __noinline int F(unbury)(const S(key) *key)
{
	S(leg) *leg = bpf_map_lookup_elem(&F(closed), key);
	__u32 zero = 0;
	S(draft) *draft = bpf_map_lookup_elem(&F(drafts), &zero);

	if (!leg || !draft)
		return 0;
	F(reverse)(&draft->other, &leg->ends, key->protocol);
	bpf_map_delete_elem(&F(closed), &draft->other);
	bpf_map_delete_elem(&F(closed), key);
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
