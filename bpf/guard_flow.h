/* Is a packet of something that is open: a flow of the kernel path, a session of the engine, or a connection of a socket
 * of this machine? */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#define TCP_LISTENS 10   /* BPF_TCP_LISTEN */
#define TCP_HALF_OPEN 12 /* BPF_TCP_NEW_SYN_RECV: nobody has answered yet */

struct flows_of4 {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct key4));
	__uint(value_size, sizeof(struct leg4));
};

struct flows_of6 {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct key6));
	__uint(value_size, sizeof(struct leg6));
};

struct opening_of4 {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__uint(key_size, sizeof(struct key4));
	__uint(value_size, sizeof(struct leg4));
};

struct opening_of6 {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__uint(key_size, sizeof(struct key6));
	__uint(value_size, sizeof(struct leg6));
};

/* The flow program's tables, if there is one. They are looked at, never written. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct flows_of4);
} joined_flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct flows_of6);
} joined_flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct opening_of4);
} joined_opening4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct opening_of6);
} joined_opening6 SEC(".maps");

/* Of the kernel path. A TCP flow whose SYN went through is open enough for what follows it; a datagram's is not. */
static __always_inline int has_flow(const struct seen *p, int or_opening)
{
	__u32 slot = 0;
	void *flows;

	if (!p->is_ipv6) {
		struct key4 key = { .ends.saddr = { p->saddr[0] }, .ends.daddr = { p->daddr[0] },
				    .ends.sport = bpf_htons(p->sport), .ends.dport = bpf_htons(p->dport),
				    .protocol = p->protocol };

		flows = bpf_map_lookup_elem(&joined_flows4, &slot);
		if (!flows)
			return 0;
		if (bpf_map_lookup_elem(flows, &key))
			return 1;
		if (!or_opening || p->protocol != IPPROTO_TCP)
			return 0;
		flows = bpf_map_lookup_elem(&joined_opening4, &slot);
		return flows && bpf_map_lookup_elem(flows, &key);
	}
	struct key6 key = { .ends.sport = bpf_htons(p->sport), .ends.dport = bpf_htons(p->dport),
			    .protocol = p->protocol };

	__builtin_memcpy(key.ends.saddr, p->saddr, 16);
	__builtin_memcpy(key.ends.daddr, p->daddr, 16);
	flows = bpf_map_lookup_elem(&joined_flows6, &slot);
	if (!flows)
		return 0;
	if (bpf_map_lookup_elem(flows, &key))
		return 1;
	if (!or_opening || p->protocol != IPPROTO_TCP)
		return 0;
	flows = bpf_map_lookup_elem(&joined_opening6, &slot);
	return flows && bpf_map_lookup_elem(flows, &key);
}

/* Two-way sessions of the engine: their clients all send to one socket, which tells nothing of them. Written by the
 * engine's workers alone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SESSIONS);
	__type(key, struct ends4);
	__type(value, struct session);
} sessions4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SESSIONS);
	__type(key, struct ends6);
	__type(value, struct session);
} sessions6 SEC(".maps");

/* Of a datagram. */
static __always_inline int has_session(const struct seen *p)
{
	if (!p->is_ipv6) {
		struct ends4 key = { .saddr = { p->saddr[0] }, .daddr = { p->daddr[0] },
				     .sport = bpf_htons(p->sport), .dport = bpf_htons(p->dport) };

		return !!bpf_map_lookup_elem(&sessions4, &key);
	}
	struct ends6 key = { .sport = bpf_htons(p->sport), .dport = bpf_htons(p->dport) };

	__builtin_memcpy(key.saddr, p->saddr, 16);
	__builtin_memcpy(key.daddr, p->daddr, 16);
	return !!bpf_map_lookup_elem(&sessions6, &key);
}

static __always_inline __u32 tuple_of(struct bpf_sock_tuple *tuple, const struct seen *p)
{
	if (!p->is_ipv6) {
		tuple->ipv4.saddr = p->saddr[0];
		tuple->ipv4.daddr = p->daddr[0];
		tuple->ipv4.sport = bpf_htons(p->sport);
		tuple->ipv4.dport = bpf_htons(p->dport);
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, p->saddr, 16);
	__builtin_memcpy(tuple->ipv6.daddr, p->daddr, 16);
	tuple->ipv6.sport = bpf_htons(p->sport);
	tuple->ipv6.dport = bpf_htons(p->dport);
	return sizeof(tuple->ipv6);
}

/* The state of the TCP socket that would get the packet; 0: there is none. */
static __always_inline int tcp_state(struct xdp_md *ctx, const struct seen *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	int state;

	if (p->is_ipv6) {
		tuple_of(&tuple, p);
		socket = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	} else {
		tuple_of(&tuple, p);
		socket = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	if (!socket)
		return 0;
	state = socket->state;
	bpf_sk_release(socket);
	return state;
}

static __always_inline int has_udp_socket(struct xdp_md *ctx, const struct seen *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;

	tuple_of(&tuple, p);
	socket = p->is_ipv6 ? bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0)
			    : bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return 0;
	bpf_sk_release(socket);
	return 1;
}

/* Without a call: if not, is_established() says no. */
static __always_inline int may_be_established(const struct seen *p)
{
	if (p->protocol == IPPROTO_TCP)
		return (p->flags & (SYN_FLAG | ACK_FLAG)) != SYN_FLAG;
	return p->protocol == IPPROTO_UDP;
}

/* YES or NO. A packet that asks for a connection (SYN) is of none. Asked once for each packet, and only where the answer
 * matters: looking for a socket costs as much as all the rest. */
__noinline int is_established(struct xdp_md *ctx, struct seen *p) /* global: the verifier looks at it once */
{
	int found = 0;

	if (!p)
		return NO;
	if (p->is_established)
		return p->is_established;
	if (p->fragment == LATER_FRAGMENT || p->is_malformed || p->is_illegal) {
	} else if (p->protocol == IPPROTO_UDP) {
		found = has_session(p) || has_flow(p, 1);
	} else if (p->protocol == IPPROTO_TCP && (p->flags & (SYN_FLAG | ACK_FLAG)) != SYN_FLAG) {
		found = has_flow(p, 1);
		if (!found) {
			int state = tcp_state(ctx, p);

			found = state && state != TCP_LISTENS;
		}
	}
	p->is_established = found ? YES : NO;
	return p->is_established;
}

/* NOBODY, OPEN or TWO_WAY. For samples. */
__noinline int standing_of(struct xdp_md *ctx, const struct seen *p)
{
	int state;

	if (!p)
		return NOBODY;
	if (p->is_established == NO || p->fragment == LATER_FRAGMENT || p->is_malformed || p->is_illegal)
		return NOBODY;
	if (p->protocol == IPPROTO_UDP && has_session(p))
		return TWO_WAY;
	if (p->protocol != IPPROTO_UDP && p->protocol != IPPROTO_TCP)
		return NOBODY;
	if (p->protocol == IPPROTO_TCP && (p->flags & (SYN_FLAG | ACK_FLAG)) == SYN_FLAG)
		return NOBODY;
	if (has_flow(p, 0))
		return TWO_WAY;
	if (has_flow(p, 1))
		return OPEN;
	if (p->protocol == IPPROTO_UDP)
		return NOBODY;
	state = tcp_state(ctx, p);
	if (!state || state == TCP_LISTENS)
		return NOBODY;
	return state == TCP_HALF_OPEN ? OPEN : TWO_WAY;
}
