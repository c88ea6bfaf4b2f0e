/* Whose packet it is. Asking the kernel's hash tables takes three times as long as all else that a dropped packet costs,
 * so each processor remembers what came of it lately; a change of what is guarded makes it all forgotten. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#define MEMOS 256
#define IS_IPV6 (1u << 24)
#define HAS_PORT (1u << 25)
#define IS_REST (1u << 31)

struct memo {
	__be32 address[4];
	__u32 what;       /* port | protocol << 16 | IS_IPV6 | HAS_PORT */
	__u32 generation; /* of the settings; 0: none */
	__u32 listener;   /* | IS_REST */
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MEMOS);
	__type(key, __u32);
	__type(value, struct memo);
} memos SEC(".maps");

static __always_inline __u32 listener_at(const struct spot *spot, __u32 port)
{
	struct guarded_ports *ports = bpf_map_lookup_elem(&guarded_ports, spot);

	return ports ? ports->listener[port & 0xffff] : 0;
}

/* The port's, else the address's (with IS_REST). */
static __noinline __u32 look_up_listener(const struct seen *p, __u32 what, __u32 has_wildcards)
{
	struct spot spot = { .protocol = p->protocol, .is_ipv6 = p->is_ipv6 };
	__u32 *address, listener;

	__builtin_memcpy(spot.address_be, p->daddr, 16);
	if (what & HAS_PORT) {
		listener = listener_at(&spot, p->dport);
		if (!listener && has_wildcards) {
			__builtin_memset(spot.address_be, 0, 16);
			listener = listener_at(&spot, p->dport);
			__builtin_memcpy(spot.address_be, p->daddr, 16);
		}
		if (listener)
			return listener;
	}
	spot.protocol = 0;
	address = bpf_map_lookup_elem(&guarded_addresses, &spot);
	return (address ? *address : 0) | IS_REST;
}

/* Whose packet it is: the port's, else the address's (then it answers 1); 0: nobody's. */
static __always_inline int find_listener(struct seen *p, const struct guard_settings *with)
{
	__u32 generation = *(const volatile __u32 *)&with->generation; /* before the tables are asked */
	__u32 what = p->protocol << 16 | (p->is_ipv6 ? IS_IPV6 : 0), slot, listener;
	struct memo *memo;

	if ((p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) && p->fragment != LATER_FRAGMENT)
		what |= p->dport | HAS_PORT;
	slot = p->daddr[0] ^ p->daddr[1] ^ p->daddr[2] ^ p->daddr[3] ^ what * 0x9e3779b1;
	slot = slot * 0x85ebca6b >> 24;
	memo = bpf_map_lookup_elem(&memos, &slot);
	if (!memo)
		return 1;
	if (generation && memo->generation == generation && memo->what == what && memo->address[0] == p->daddr[0] &&
	    memo->address[1] == p->daddr[1] && memo->address[2] == p->daddr[2] && memo->address[3] == p->daddr[3]) {
		listener = memo->listener;
	} else {
		listener = look_up_listener(p, what, with->has_wildcards);
		memo->generation = 0;
		barrier();
		__builtin_memcpy(memo->address, p->daddr, 16);
		memo->what = what;
		memo->listener = listener;
		barrier();
		memo->generation = generation;
	}
	p->listener = listener & ~IS_REST;
	return listener >> 31;
}
