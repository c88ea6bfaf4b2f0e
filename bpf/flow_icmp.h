/* ICMP of one family: errors about flows, translated, and our own where a packet is too big. Included once for each. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#undef QUOTE
#undef QUOTED_L4
#define QUOTE (L4 + 8)                         /* the packet that the error is about, as far as it is quoted */
#define QUOTED_L4 (QUOTE + L4 - ETH_HLEN)

#if FAMILY == 4
#define is_error4(type) ((type) == 3 || (type) == 11 || (type) == 12)
#define is_closed_port4(type, code) ((type) == 3 && (code) == 3)
#else
#define is_error6(type) ((type) >= 1 && (type) <= 4)
#define is_closed_port6(type, code) ((type) == 1 && (code) == 4)
#endif

static __always_inline void F(network_ends)(S(ends) *ends, const void *network)
{
#if FAMILY == 4
	const struct iphdr *ip = network;

	ends->saddr[0] = ip->saddr;
	ends->daddr[0] = ip->daddr;
#else
	const struct ipv6hdr *ip = network;

	__builtin_memcpy(ends->saddr, &ip->saddr, 16);
	__builtin_memcpy(ends->daddr, &ip->daddr, 16);
#endif
}

/* Give the quoted packet the ends with which its sender knows it. Answers what that adds to the sum of the message. */
static __always_inline __u64 F(requote)(void *data, const S(ends) *sent, const S(ends) *known, const struct packet *p)
{
	__u64 addresses = F(difference)(sent, known);
	__u64 ports = (__u64)ports_of(known->sport, known->dport) + (__u32)~ports_of(sent->sport, sent->dport);
	__u64 sum = addresses + ports;
#if FAMILY == 4
	struct iphdr *ip = data + QUOTE;
	__u16 before = ip->check;

	ip->check = ~fold16((__u64)(__u16)~before + addresses);
	sum += (__u64)ip->check + (__u16)~before;
	ip->saddr = known->saddr[0];
	ip->daddr = known->daddr[0];
#else
	struct ipv6hdr *ip = data + QUOTE;

	__builtin_memcpy(&ip->saddr, known->saddr, 16);
	__builtin_memcpy(&ip->daddr, known->daddr, 16);
#endif
	*(__u32 *)(data + QUOTED_L4) = ports_of(known->sport, known->dport);
	if (p->is_tcp) {
		__be32 *seq = data + QUOTED_L4 + 4;
		__be32 told = bpf_htonl(bpf_ntohl(*seq) - p->seq_more);

		sum += (__u64)told + (__u32)~*seq;
		*seq = told;
	} else {
		__u16 *check = data + QUOTED_L4 + 6, was = *check;

		if (was) {
			*check = ~fold16((__u64)(__u16)~was + addresses + ports);
			if (!*check)
				*check = 0xffff;
			sum += (__u64)*check + (__u16)~was;
		}
	}
	return sum;
}

/* Nobody listens at the origin: that ends a session, and the client's next datagram begins another. */
static __noinline int F(end_session)(const S(key) *key, S(leg) *leg)
{
	S(leg) *client;
	S(key) back;

	F(reverse)(&back, &leg->ends, key->protocol);
	client = F(find)(&back);
	if (!client || client->tally.state & CLOSED)
		return 0;
	set_bits(&leg->tally, RST_SEEN);
	if (close_both(&client->tally, &leg->tally))
		F(bury)(&back, client, key, leg);
	return 0;
}

/* How much longer than they came the datagrams of a session's client go on. */
static __noinline __u32 F(header_before)(const S(key) *key, const S(leg) *origin)
{
	S(leg) *client;
	S(key) back;

	F(reverse)(&back, &origin->ends, key->protocol);
	client = F(find_other)(&back);
	return client ? client->tally.state >> HEADER_SHIFT & HEADER_BYTES : 0;
}

/* A datagram that has to fit with its header: what is told is less by that. Answers what that adds to the sum. */
static __always_inline __u64 F(lower_mtu)(void *icmp, __u32 more)
{
#if FAMILY == 4
	__be16 *field = icmp + 6, before = *field;

	if (*(__u16 *)icmp != bpf_htons(0x0304) || bpf_ntohs(before) <= more)
		return 0;
	*field = bpf_htons(bpf_ntohs(before) - more);
	return (__u64)*field + (__u16)~before;
#else
	__be32 *field = icmp + 4, before = *field;

	if (*(__u8 *)icmp != 2 || bpf_ntohl(before) < NARROW + more)
		return 0;
	*field = bpf_htonl(bpf_ntohl(before) - more);
	return (__u64)*field + (__u32)~before;
#endif
}

/* An error about a packet that we have sent on: its sender is told, of the packet as it sent it, by whom it sent to. */
static __noinline int F(error)(struct __sk_buff *skb)
{
	struct bpf_fib_lookup fib;
	struct packet p = { .is_slow = 1 };
	S(ends) sent, from = {}, to;
	S(key) key;
	S(leg) *leg;
	void *data, *end;
	__u32 more = 0;
	__u8 protocol;
	__u64 sum;
	long found;

	if (skb->len < QUOTED_L4 + 8 || bpf_skb_pull_data(skb, QUOTED_L4 + 8))
		return PASS;
	data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
	if (data + QUOTED_L4 + 8 > end || !F(is_error)(*(__u8 *)(data + L4)))
		return PASS;
#if FAMILY == 4
	struct iphdr *quoted = data + QUOTE;

	if (quoted->ihl != 5 || quoted->frag_off & bpf_htons(0x1fff))
		return PASS;
	protocol = quoted->protocol;
	p.hops = ((struct iphdr *)(data + ETH_HLEN))->ttl;
	p.segment = bpf_ntohs(((struct iphdr *)(data + ETH_HLEN))->tot_len);
#else
	struct ipv6hdr *quoted = data + QUOTE;

	protocol = quoted->nexthdr;
	p.hops = ((struct ipv6hdr *)(data + ETH_HLEN))->hop_limit;
	p.segment = bpf_ntohs(((struct ipv6hdr *)(data + ETH_HLEN))->payload_len) + 40;
#endif
	if ((protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) || p.hops <= 1)
		return PASS;
	p.is_tcp = protocol == IPPROTO_TCP;
	F(network_ends)(&sent, quoted);
	sent.sport = *(__be16 *)(data + QUOTED_L4);
	sent.dport = *(__be16 *)(data + QUOTED_L4 + 2);
	F(reverse)(&key, &sent, protocol);
	leg = F(find)(&key);
	if (!leg)
		leg = F(find_ended)(&key, 0);
	if (!leg)
		return PASS;
	to = leg->ends;
	if (!p.is_tcp && leg->tally.state & IS_ORIGIN_LEG && F(is_closed_port)(*(__u8 *)(data + L4), *(__u8 *)(data + L4 + 1)))
		F(end_session)(&key, leg);
	if (!p.is_tcp && leg->tally.state & IS_ORIGIN_LEG)
		more = F(header_before)(&key, leg);
	if (p.is_tcp && leg->tally.state & IS_ORIGIN_LEG)
		p.seq_more = leg->tally.state >> HEADER_SHIFT & HEADER_BYTES;
	found = F(route)(skb, &p, &to, &fib);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) {
		count(NO_ROUTE);
		return DROP;
	}
	data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
	if (data + QUOTED_L4 + 8 > end)
		return DROP;
	F(swap)(&key.ends, &to);
	sum = F(requote)(data, &sent, &key.ends, &p);
	if (more)
		sum += F(lower_mtu)(data + L4, more);
	F(network_ends)(&from, data + ETH_HLEN);
	__builtin_memcpy(((struct ethhdr *)data)->h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(((struct ethhdr *)data)->h_source, fib.smac, ETH_ALEN);
	F(readdress)(data + ETH_HLEN, &to, F(difference)(&from, &to));
#if FAMILY == 6
	F(fix_checksum)(skb, L4 + 2, F(difference)(&from, &to), sum, 0);
#else
	bpf_l4_csum_replace(skb, L4 + 2, 0, fold32(sum), 0);
#endif
	count(ERROR_TRANSLATED);
	return leave(&p, &fib, found);
}

#undef ANSWER
#define ANSWER (QUOTED_L4 + 8)

/* Tell the sender that the way on takes packets of `mtu` bytes at most, in place of the packet. */
static __noinline int F(too_big)(struct __sk_buff *skb, const S(key) *key, __u32 mtu)
{
	__u32 quoted[(ANSWER - QUOTE) / 4];
	void *data, *end;
	struct ethhdr *ethernet;
	__u8 mac[ETH_ALEN];
	__u64 sum = 0;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, quoted, sizeof(quoted)) || bpf_skb_change_tail(skb, ANSWER, 0) ||
	    bpf_skb_pull_data(skb, ANSWER))
		return DROP;
	data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
	if (data + ANSWER > end)
		return DROP;
	ethernet = data;
	__builtin_memcpy(mac, ethernet->h_dest, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, mac, ETH_ALEN);
	__builtin_memcpy(data + QUOTE, quoted, sizeof(quoted));
#pragma unroll
	for (int i = 0; i < sizeof(quoted) / 4; i++)
		sum += quoted[i];
#if FAMILY == 4
	struct iphdr *ip = data + ETH_HLEN;
	__u32 *icmp = data + L4;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(ANSWER - ETH_HLEN);
	ip->ttl = 64;
	ip->protocol = IPPROTO_ICMP;
	ip->saddr = key->ends.daddr[0];
	ip->daddr = key->ends.saddr[0];
	icmp[0] = bpf_htonl(0x03040000);
	icmp[1] = bpf_htonl(mtu);
	sum += (__u64)icmp[0] + icmp[1];
	((__u16 *)icmp)[1] = ~fold16(sum);
	sum = 0;
#pragma unroll
	for (int i = 0; i < 5; i++)
		sum += ((__u32 *)ip)[i];
	ip->check = ~fold16(sum);
#else
	struct ipv6hdr *ip = data + ETH_HLEN;
	__u32 *icmp = data + L4;

	*(__be32 *)ip = bpf_htonl(0x60000000);
	ip->payload_len = bpf_htons(ANSWER - L4);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = 64;
	__builtin_memcpy(&ip->saddr, key->ends.daddr, 16);
	__builtin_memcpy(&ip->daddr, key->ends.saddr, 16);
	icmp[0] = bpf_htonl(0x02000000);
	icmp[1] = bpf_htonl(mtu);
	sum += (__u64)icmp[0] + icmp[1] + bpf_htonl(ANSWER - L4) + bpf_htonl(IPPROTO_ICMPV6);
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		sum += (__u64)key->ends.saddr[i] + key->ends.daddr[i];
	((__u16 *)icmp)[1] = ~fold16(sum);
#endif
	return bpf_redirect(skb->ifindex, 0);
}
