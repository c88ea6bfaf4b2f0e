/* Reading a packet: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with up to eight extension headers, then
 * TCP, UDP or ICMP. What contradicts itself is malformed, what nobody sends illegal; both are judged later, because
 * only a listener's packets are. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#define VLAN_Q  0x8100
#define VLAN_AD 0x88a8
#define MAX_EXTENSIONS 8

#define HOP_BY_HOP 0
#define ROUTING 43
#define FRAGMENTED 44
#define AUTHENTICATION 51
#define DESTINATION_OPTIONS 60

/* Without PSH: SYN, SYN URG, SYN ACK, RST, RST ACK, FIN ACK, FIN ACK URG, ACK, ACK URG; as netfilter has it. */
#define LEGAL_FLAGS 0x3000400170014ull

struct vlan {
	__be16 tag, type;
};

static __always_inline int read_transport(struct xdp_md *ctx, struct seen *p, __u32 at, __u32 rest)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	p->transport = at;
	if (p->fragment == LATER_FRAGMENT)
		return 1;
	at &= 0x7fff; /* for the verifier: frames' linear parts are smaller */
	if (p->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = data + at;

		if (rest < sizeof(*tcp) || (void *)(tcp + 1) > end) {
			p->is_malformed = 1;
			return 1;
		}
		p->sport = bpf_ntohs(tcp->source);
		p->dport = bpf_ntohs(tcp->dest);
		p->header = tcp->doff * 4;
		p->flags = ((__u8 *)tcp)[13];
		p->window = bpf_ntohs(tcp->window);
		p->sequence = bpf_ntohl(tcp->seq);
		if (p->header < sizeof(*tcp) || p->header > rest)
			p->is_malformed = 1;
		else if (!(LEGAL_FLAGS >> (p->flags & 0x37) & 1) || !p->sport)
			p->is_illegal = 1;
	} else if (p->protocol == IPPROTO_UDP) {
		struct udphdr *udp = data + at;
		__u32 length;

		if (rest < sizeof(*udp) || (void *)(udp + 1) > end) {
			p->is_malformed = 1;
			return 1;
		}
		p->sport = bpf_ntohs(udp->source);
		p->dport = bpf_ntohs(udp->dest);
		p->header = sizeof(*udp);
		length = bpf_ntohs(udp->len);
		if (length < sizeof(*udp) || (length > rest && !p->fragment))
			p->is_malformed = 1;
	} else if (p->protocol == (p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		__u8 *icmp = data + at;

		if (rest < 8 || icmp + 8 > (__u8 *)end)
			p->is_malformed = 1;
		else
			p->icmp_type = icmp[0];
	}
	return 1;
}

/* The length of what begins at `at` and says that it has `length` bytes; 0 if the frame has fewer. Of many segments it
 * may be larger than its `field`, which is 0 then. */
static __always_inline __u32 there_is(struct xdp_md *ctx, __u32 at, __u32 length, __u32 field)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 there;

	if (field && data + at + length <= end)
		return length;
	there = bpf_xdp_get_buff_len(ctx) - at;
	if (!field && there > 65535)
		return there;
	return length > there ? 0 : length;
}

static __always_inline int read4(struct xdp_md *ctx, struct seen *p, __u32 at)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + at;
	__u32 length, header, offset, field;

	if ((void *)(ip + 1) > end)
		return 0;
	p->saddr[0] = ip->saddr;
	p->daddr[0] = ip->daddr;
	p->protocol = ip->protocol;
	p->hops = ip->ttl;
	p->id = ip->id;
	p->network = at;
	header = ip->ihl * 4;
	length = there_is(ctx, at, bpf_ntohs(ip->tot_len), bpf_ntohs(ip->tot_len));
	p->length = length > 65535 ? 65535 : length;
	if (ip->version != 4 || header < sizeof(*ip) || length < header || *(__u8 *)&ip->saddr >= 224) {
		p->is_malformed = 1;
		return 1;
	}
	field = bpf_ntohs(ip->frag_off);
	if (field & 0x3fff) {
		offset = (field & 0x1fff) * 8;
		p->fragment = offset ? LATER_FRAGMENT : FIRST_FRAGMENT;
		p->fragment_id = ip->id;
		if (offset + length - header > 65535 || length == header || (field & 0x2000 && (length - header) & 7) ||
		    (offset == 8 && p->protocol == IPPROTO_TCP)) {
			p->is_malformed = 1;
			return 1;
		}
	}
	return read_transport(ctx, p, at + header, length - header);
}

/* By a jump: 6.1's verifier refuses a loop whose rounds follow each other without one. */
static __always_inline int next_round(int round)
{
	round += 1;
	asm volatile("goto +0" : "+r"(round));
	return round;
}

static __always_inline int read6(struct xdp_md *ctx, struct seen *p, __u32 at)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + at;
	__u32 length, was_fragmented = 0, next, rest;

	if ((void *)(ip + 1) > end)
		return 0;
	p->is_ipv6 = 1;
	__builtin_memcpy(p->saddr, &ip->saddr, 16);
	__builtin_memcpy(p->daddr, &ip->daddr, 16);
	p->hops = ip->hop_limit;
	p->network = at;
	p->protocol = next = ip->nexthdr;
	length = there_is(ctx, at, bpf_ntohs(ip->payload_len) + sizeof(*ip), bpf_ntohs(ip->payload_len));
	p->length = length > 65535 ? 65535 : length;
	if (ip->version != 6 || length < sizeof(*ip) || *(__u8 *)&ip->saddr == 0xff) {
		p->is_malformed = 1;
		return 1;
	}
	rest = length - sizeof(*ip);
	at += sizeof(*ip);
	for (int i = 0; i <= MAX_EXTENSIONS; i = next_round(i)) {
		__u8 bytes[8];
		__u32 size;

		if (next != HOP_BY_HOP && next != ROUTING && next != FRAGMENTED && next != AUTHENTICATION &&
		    next != DESTINATION_OPTIONS)
			return read_transport(ctx, p, at, rest);
		if (i == MAX_EXTENSIONS || rest < 8 || (next == HOP_BY_HOP && i) || bpf_xdp_load_bytes(ctx, at, bytes, 8))
			break;
		if (next == FRAGMENTED) {
			__u32 field = bytes[2] << 8 | bytes[3];

			size = 8;
			rest -= size;
			p->protocol = bytes[0];
			if (was_fragmented)
				break;
			was_fragmented = 1;
			if (field & 0xfff9) { /* else it is whole, and says so */
				p->fragment = field & 0xfff8 ? LATER_FRAGMENT : FIRST_FRAGMENT;
				p->fragment_id = *(__u32 *)(bytes + 4);
				if ((field & 0xfff8) + rest > 65535 || !rest || (field & 1 && rest & 7) ||
				    (field >> 3 == 1 && bytes[0] == IPPROTO_TCP))
					break;
			}
			at += size;
			next = bytes[0];
			if (p->fragment == LATER_FRAGMENT)
				return read_transport(ctx, p, at, rest);
			continue;
		}
		size = next == AUTHENTICATION ? (bytes[1] + 2) * 4 : (bytes[1] + 1) * 8;
		if (size > rest || (next == ROUTING && !bytes[2]))
			break;
		rest -= size;
		at += size;
		p->protocol = next = bytes[0];
	}
	p->is_malformed = 1;
	return 1;
}

/* 0: not an IP packet, or not even an IP header: nobody's. */
static __always_inline int read_packet(struct xdp_md *ctx, struct seen *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	__u32 at = sizeof(*ethernet);
	__be16 type;

	if ((void *)(ethernet + 1) > end)
		return 0;
	type = ethernet->h_proto;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (type == bpf_htons(VLAN_Q) || type == bpf_htons(VLAN_AD)) {
			struct vlan *vlan = data + at;

			if ((void *)(vlan + 1) > end)
				return 0;
			type = vlan->type;
			at += sizeof(*vlan);
		}
	}
	if (type == bpf_htons(ETH_P_IP))
		return read4(ctx, p, at);
	if (type == bpf_htons(ETH_P_IPV6))
		return read6(ctx, p, at);
	return 0;
}
