/* The way out of a packet of one family: route, then new addresses, then a neighbour. Included once for each. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

static __always_inline long F(route)(struct __sk_buff *skb, const struct packet *p, const S(ends) *to,
				     struct bpf_fib_lookup *fib)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->l4_protocol = p->is_tcp ? IPPROTO_TCP : IPPROTO_UDP;
	fib->sport = to->sport;
	fib->dport = to->dport;
	fib->tot_len = p->segment + p->grow;
	fib->ifindex = LOOPBACK; /* as if it came from nowhere: forwarding is on for lo only */
#if FAMILY == 4
	fib->family = AF_INET;
	fib->tos = p->flowinfo;
	fib->ipv4_src = to->saddr[0];
	fib->ipv4_dst = to->daddr[0];
#else
	fib->family = AF_INET6;
	fib->flowinfo = p->flowinfo;
	__builtin_memcpy(fib->ipv6_src, to->saddr, 16);
	__builtin_memcpy(fib->ipv6_dst, to->daddr, 16);
#endif
	return bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
}

/* The largest segment of TCP that both the link from where a packet came and the one that it goes to take. */
static __always_inline __u32 F(most_of_links)(struct __sk_buff *skb, const struct bpf_fib_lookup *fib)
{
	__u32 in = 0, out = 0;

	bpf_check_mtu(skb, 0, &in, 0, 0);
	bpf_check_mtu(skb, fib->ifindex, &out, 0, 0);
	out = in && in < out ? in : out;
	return out > L4 - ETH_HLEN + 20 + 512 ? out - (L4 - ETH_HLEN + 20) : 0xffff;
}

/* Sum of what replaces the addresses, for checksums. */
static __always_inline __u64 F(difference)(const S(ends) *from, const S(ends) *to)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < WORDS; i++) {
		sum += (__u64)to->saddr[i] + (__u32)~from->saddr[i];
		sum += (__u64)to->daddr[i] + (__u32)~from->daddr[i];
	}
	return sum;
}

/* One hop less, and new addresses, in the network header. */
static __always_inline void F(readdress)(void *network, const S(ends) *to, __u64 difference)
{
#if FAMILY == 4
	struct iphdr *ip = network;
	__u16 before, after;

	before = *(__u16 *)&ip->ttl;
	ip->ttl -= 1;
	after = *(__u16 *)&ip->ttl;
	ip->check = ~fold16((__u64)(__u16)~ip->check + (__u16)~before + after + difference);
	ip->saddr = to->saddr[0];
	ip->daddr = to->daddr[0];
#else
	struct ipv6hdr *ip = network;

	ip->hop_limit -= 1;
	__builtin_memcpy(&ip->saddr, to->saddr, 16);
	__builtin_memcpy(&ip->daddr, to->daddr, 16);
#endif
}

static __always_inline void F(fix_checksum)(struct __sk_buff *skb, __u32 at, __u64 pseudo, __u64 plain, __u64 flags)
{
#if FAMILY == 6
	if (bpf_l4_csum_replace(skb, at, 0, fold32(pseudo), BPF_F_PSEUDO_HDR | CSUM_IPV6 | flags) < 0)
#endif
	bpf_l4_csum_replace(skb, at, 0, fold32(pseudo), BPF_F_PSEUDO_HDR | flags);
	bpf_l4_csum_replace(skb, at, 0, fold32(plain), flags);
}

/* Give a packet its new addresses and send it on. */
static __always_inline int F(send)(struct __sk_buff *skb, const struct packet *p, const S(ends) *from,
				   const S(ends) *to, struct bpf_fib_lookup *fib, long found)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = data;
	__u64 difference = F(difference)(from, to);
	__u64 pseudo = difference, plain = (__u64)ports_of(to->sport, to->dport) + (__u32)~ports_of(from->sport, from->dport);

	if (data + L4 + sizeof(struct udphdr) > end)
		return DROP;
	__builtin_memcpy(ethernet->h_dest, fib->dmac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, fib->smac, ETH_ALEN);
	plain += p->plain;
	if (p->grow) {
		__u32 longer = grow_length(data, end, L4 + 4, p->is_tcp ? 0 : p->grow);

		/* The length is in the pseudo header too; of the network header's own checksum it is a part. */
		plain += longer;
		pseudo += p->is_tcp ? grown(p->segment, p->grow) : longer;
		longer = grow_length(data, end, FAMILY == 4 ? ETH_HLEN + 2 : ETH_HLEN + 4, p->grow);
#if FAMILY == 4
		((struct iphdr *)(data + ETH_HLEN))->check =
			~fold16((__u64)(__u16)~((struct iphdr *)(data + ETH_HLEN))->check + longer);
#endif
	}
	F(readdress)(data + ETH_HLEN, to, difference);
	*(__u32 *)(data + L4) = ports_of(to->sport, to->dport);
	if (p->is_tcp) {
		struct tcphdr *tcp = data + L4;

		if ((void *)(tcp + 1) > end)
			return DROP;
		if (p->seq_more) {
			__be32 seq = bpf_htonl(p->seq + p->seq_more);

			plain += (__u64)seq + (__u32)~tcp->seq;
			tcp->seq = seq;
		}
		if (p->ack_less) {
			__be32 ack = bpf_htonl(p->ack);

			plain += (__u64)ack + (__u32)~tcp->ack_seq;
			tcp->ack_seq = ack;
		}
		F(fix_checksum)(skb, L4 + 16, pseudo, plain, 0);
	} else {
		F(fix_checksum)(skb, L4 + 6, pseudo, plain, BPF_F_MARK_MANGLED_0);
	}
	return leave(p, fib, found);
}
