/* Later fragments have no ports: whether the first one of their datagram passed is all that is known of them. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

struct datagram {
	__be32 saddr[4], daddr[4];
	__u32 id;
	__u32 protocol_and_family;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct datagram);
	__type(value, __u32); /* YES: it passed; NO: it was dropped */
} datagrams SEC(".maps");

static __always_inline void datagram_of(struct datagram *out, const struct seen *p)
{
	__builtin_memcpy(out->saddr, p->saddr, 16);
	__builtin_memcpy(out->daddr, p->daddr, 16);
	out->id = p->fragment_id;
	out->protocol_and_family = p->protocol | p->is_ipv6 << 8;
}

/* YES, NO, or 0 if its first fragment was not seen. */
static __noinline int first_fragment(const struct seen *p)
{
	struct datagram key;
	__u32 *passed;

	datagram_of(&key, p);
	passed = bpf_map_lookup_elem(&datagrams, &key);
	return passed ? *passed : 0;
}

static __noinline int remember_first(const struct seen *p, __u32 passed)
{
	struct datagram key;

	datagram_of(&key, p);
	bpf_map_update_elem(&datagrams, &key, &passed, BPF_ANY);
	return 0;
}
