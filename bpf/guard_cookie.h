/* SYN cookies: a SYN is answered from here, and nobody remembers it; an ACK that brings the cookie back goes on to the
 * listener, whose own check of the same cookie makes a connection of it. The stack takes cookies only of listening
 * sockets that have sent some in the last two minutes (net.ipv4.tcp_syncookies has to be 2). Every port may be a socket
 * of its own, so ten SYNs a second go through to each: more than one, because the stack answers nobody to whom it has
 * no route. And to all ports of a listener not more than ten thousand, or a flood over all ports would go through. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#define PRIME_NS 100000000ull
#define PRIME_LISTENER_NS 100000ull
#define PRIMED_SPOTS 16384 /* by hash: two spots in one slot share their ten */
#define REPLY_HOPS 64
#define OPTION_BITS 6 /* of a timestamp: window scale (4), SACK (1), ECN (1), as the stack reads them */
#define OPTION_SACK 16
#define NS_OF_MS 1000000

/* When a SYN last went through: to each listener, then to each spot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_GUARDED + PRIMED_SPOTS);
	__type(key, __u32);
	__type(value, __u64);
} primed SEC(".maps");

static __always_inline __u32 primed_spot(const struct seen *p)
{
	__u32 hash = p->daddr[0] ^ p->daddr[1] ^ p->daddr[2] ^ p->daddr[3];

	hash ^= p->dport * 0x9e3779b1u;
	hash = (hash ^ hash >> 16) * 0x85ebca6bu;
	return MAX_GUARDED + ((hash ^ hash >> 13) & (PRIMED_SPOTS - 1));
}

static __always_inline int is_to_prime(const struct seen *p)
{
	__u32 index = p->listener, spot = primed_spot(p);
	__u64 *of_listener = bpf_map_lookup_elem(&primed, &index), *of_spot = bpf_map_lookup_elem(&primed, &spot);
	__u64 before, last;

	if (!of_listener || !of_spot)
		return 0;
	before = *(volatile __u64 *)of_spot;
	if (before && p->now - before < PRIME_NS)
		return 0;
	last = *(volatile __u64 *)of_listener;
	if (last && p->now - last < PRIME_LISTENER_NS)
		return 0;
	if (__sync_val_compare_and_swap(of_listener, last, p->now) != last)
		return 0;
	return __sync_val_compare_and_swap(of_spot, before, p->now) == before;
}

struct segment4 {
	struct iphdr ip;
	struct tcphdr tcp;
	__u8 options[40];
};

struct segment6 {
	struct ipv6hdr ip;
	struct tcphdr tcp;
	__u8 options[40];
};

/* Stacks are small. */
struct cookie_desk {
	union {
		struct segment4 v4;
		struct segment6 v6;
	};
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cookie_desk);
} cookie_desks SEC(".maps");

static __always_inline __u64 sum_words(const void *from, int words)
{
	const __u32 *word = from;
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The timestamp that carries what a cookie cannot. Not later than now, or what follows would look old. */
static __always_inline __be32 timestamp_of(const struct options *o)
{
	__u32 now = bpf_ktime_get_ns() / NS_OF_MS, carried, stamp;

	carried = (o->window_scale & 15) | (o->has_sack ? OPTION_SACK : 0);
	stamp = (now >> OPTION_BITS << OPTION_BITS) | carried;
	if (stamp > now)
		stamp -= 1 << OPTION_BITS;
	return bpf_htonl(stamp);
}

/* The header of a SYN-ACK with its options, into `tcp` (zeroes, 60 bytes); answers its length. */
static __always_inline __u32 write_syn_ack(struct tcphdr *tcp, const struct seen *p, const struct options *o,
					   const struct guard_settings *with, __u32 cookie)
{
	__u32 mss = p->is_ipv6 ? with->mss6 : with->mss4, length = 24;
	__u8 *at = (__u8 *)(tcp + 1);

	tcp->source = bpf_htons(p->dport);
	tcp->dest = bpf_htons(p->sport);
	tcp->seq = bpf_htonl(cookie);
	tcp->ack_seq = bpf_htonl(p->sequence + 1);
	tcp->window = bpf_htons(with->window);
	((__u8 *)tcp)[13] = SYN_FLAG | ACK_FLAG;
	at[0] = 2, at[1] = 4, at[2] = mss >> 8, at[3] = mss;
	if (o->has_timestamp && with->keeps_timestamps) {
		__be32 stamp = timestamp_of(o);

		at[4] = o->has_sack ? 4 : 1, at[5] = o->has_sack ? 2 : 1;
		at[6] = 8, at[7] = 10;
		__builtin_memcpy(at + 8, &stamp, 4);
		__builtin_memcpy(at + 12, &o->timestamp, 4);
		length = 36;
		if (o->window_scale != 15) {
			at[16] = 1, at[17] = 3, at[18] = 3, at[19] = with->window_scale;
			length = 40;
		}
	}
	tcp->doff = length / 4;
	return length;
}

/* Interfaces whose driver loses what XDP sends, by index: such as a veth whose other end has neither a program nor GRO. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_MUTE);
	__type(key, __u32);
	__type(value, __u8);
} mute_interfaces SEC(".maps");

static __always_inline int is_mute(struct xdp_md *ctx)
{
	__u32 interface = ctx->ingress_ifindex;

	return !!bpf_map_lookup_elem(&mute_interfaces, &interface);
}

/* Turn a SYN into the answer to it. */
static __noinline int answer_syn(struct xdp_md *ctx, const struct seen *p, struct options *o,
				 const struct guard_settings *with)
{
	struct cookie_desk *desk;
	__u32 slot = 0, length = p->header, bytes, header;
	void *data, *end;
	struct tcphdr *tcp;
	__s64 cookie;
	__u64 sum;
	__u8 mac[ETH_ALEN];
	int grow;

	desk = bpf_map_lookup_elem(&cookie_desks, &slot);
	if (!desk || length < sizeof(*tcp) || length > 60)
		return GUARD_COOKIE_FAILED;
	if (!o->is_read)
		read_options(ctx, p, o);
	__builtin_memset(desk, 0, sizeof(*desk));
	if (p->is_ipv6) {
		tcp = &desk->v6.tcp;
		__builtin_memcpy(&desk->v6.ip.saddr, p->saddr, 16);
		__builtin_memcpy(&desk->v6.ip.daddr, p->daddr, 16);
		if (bpf_xdp_load_bytes(ctx, p->transport, tcp, length))
			return GUARD_COOKIE_FAILED;
		cookie = bpf_tcp_raw_gen_syncookie_ipv6(&desk->v6.ip, tcp, length);
	} else {
		tcp = &desk->v4.tcp;
		desk->v4.ip.saddr = p->saddr[0];
		desk->v4.ip.daddr = p->daddr[0];
		if (bpf_xdp_load_bytes(ctx, p->transport, tcp, length))
			return GUARD_COOKIE_FAILED;
		cookie = bpf_tcp_raw_gen_syncookie_ipv4(&desk->v4.ip, tcp, length);
	}
	if (cookie < 0)
		return GUARD_COOKIE_FAILED;

	__builtin_memset(tcp, 0, 60);
	bytes = write_syn_ack(tcp, p, o, with, cookie);
	if (p->is_ipv6) {
		struct ipv6hdr *ip = &desk->v6.ip;

		header = sizeof(*ip);
		ip->version = 6;
		ip->payload_len = bpf_htons(bytes);
		ip->nexthdr = IPPROTO_TCP;
		ip->hop_limit = REPLY_HOPS;
		__builtin_memcpy(&ip->saddr, p->daddr, 16);
		__builtin_memcpy(&ip->daddr, p->saddr, 16);
		sum = sum_words(&ip->saddr, 8);
	} else {
		struct iphdr *ip = &desk->v4.ip;

		header = sizeof(*ip);
		ip->version = 4;
		ip->ihl = 5;
		ip->tot_len = bpf_htons(header + bytes);
		ip->frag_off = bpf_htons(0x4000);
		ip->ttl = REPLY_HOPS;
		ip->protocol = IPPROTO_TCP;
		ip->saddr = p->daddr[0];
		ip->daddr = p->saddr[0];
		ip->check = folded(sum_words(ip, 5));
		sum = sum_words(&ip->saddr, 2);
	}
	sum += sum_words(tcp, 10) + bpf_htons(IPPROTO_TCP) + bpf_htons(bytes);
	tcp->check = folded(sum);

	bytes += header;
	grow = (int)(p->network + bytes) - (int)bpf_xdp_get_buff_len(ctx);
	if (grow && bpf_xdp_adjust_tail(ctx, grow))
		return GUARD_COOKIE_FAILED;
	data = (void *)(long)ctx->data, end = (void *)(long)ctx->data_end;
	if (data + sizeof(struct ethhdr) > end)
		return GUARD_COOKIE_FAILED;
	__builtin_memcpy(mac, data, ETH_ALEN);
	__builtin_memcpy(data, data + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(data + ETH_ALEN, mac, ETH_ALEN);
	if (bytes > sizeof(*desk) || bytes < header || bpf_xdp_store_bytes(ctx, p->network, desk, bytes))
		return GUARD_COOKIE_FAILED;
	return GUARD_COOKIE_SENT;
}

/* Does an ACK bring back a cookie of ours, or of the stack? */
__noinline int has_cookie(struct xdp_md *ctx, const struct seen *p)
{
	struct tcphdr tcp;

	if (!p)
		return 0;
	if (bpf_xdp_load_bytes(ctx, p->transport, &tcp, sizeof(tcp)))
		return 0;
	if (p->is_ipv6) {
		struct ipv6hdr ip = {};

		__builtin_memcpy(&ip.saddr, p->saddr, 16);
		__builtin_memcpy(&ip.daddr, p->daddr, 16);
		return !bpf_tcp_raw_check_syncookie_ipv6(&ip, &tcp);
	}
	struct iphdr ip = { .saddr = p->saddr[0], .daddr = p->daddr[0] };

	return !bpf_tcp_raw_check_syncookie_ipv4(&ip, &tcp);
}
