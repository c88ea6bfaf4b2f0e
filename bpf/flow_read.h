/* Reading a packet of one family: what must hold before anything is looked up. Included once for each. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

static __always_inline int F(read)(struct __sk_buff *skb, struct packet *p, S(key) *key)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 bytes, protocol;

	if (data + L4 + sizeof(struct udphdr) > end) {
		if (bpf_skb_pull_data(skb, skb->len < L4 + 20 ? skb->len : L4 + 20))
			return PASS;
		data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
#if FAMILY == 4
		/* The last fragment of a datagram may have a single byte. */
		if (data + L4 < end && ((struct iphdr *)(data + ETH_HLEN))->frag_off & bpf_htons(0x1fff))
			return IS_FRAGMENT;
#endif
		if (data + L4 + sizeof(struct udphdr) > end)
			return PASS;
	}
#if FAMILY == 4
	struct iphdr *ip = data + ETH_HLEN;

	protocol = ip->protocol;
	bytes = bpf_ntohs(ip->tot_len);
	if (!bytes && skb->gso_size)
		bytes = skb->len - ETH_HLEN; /* larger than its field */
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return protocol == IPPROTO_ICMP && ip->ihl == 5 ? IS_ICMP : PASS;
	if (ip->version != 4 || ip->ihl != 5) {
		count(UNUSUAL);
		return PASS;
	}
	if (ip->frag_off & bpf_htons(0x3fff))
		return IS_FRAGMENT;
	p->flowinfo = ip->tos;
	p->hops = ip->ttl;
	key->ends.saddr[0] = ip->saddr;
	key->ends.daddr[0] = ip->daddr;
#else
	struct ipv6hdr *ip = data + ETH_HLEN;

	protocol = ip->nexthdr;
	bytes = bpf_ntohs(ip->payload_len) + 40;
	if (protocol == IPPROTO_ICMPV6)
		return IS_ICMP;
	if (protocol == IPPROTO_FRAGMENT)
		return IS_FRAGMENT;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) {
		count(UNUSUAL);
		return PASS;
	}
	p->flowinfo = *(__be32 *)ip & bpf_htonl(0x0fffffff);
	p->hops = ip->hop_limit;
	__builtin_memcpy(key->ends.saddr, &ip->saddr, 16);
	__builtin_memcpy(key->ends.daddr, &ip->daddr, 16);
#endif
	if (bytes > skb->len - ETH_HLEN || bytes < L4 - ETH_HLEN + sizeof(struct udphdr)) {
		count(MALFORMED);
		return PASS;
	}
	key->protocol = protocol;
	key->ends.sport = *(__be16 *)(data + L4);
	key->ends.dport = *(__be16 *)(data + L4 + 2);
	p->segment = bytes;
	bytes -= L4 - ETH_HLEN;
	if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = data + L4;

		if ((void *)(tcp + 1) > end) {
			if (bytes < sizeof(*tcp)) {
				count(MALFORMED);
				return PASS;
			}
			if (bpf_skb_pull_data(skb, L4 + sizeof(*tcp)))
				return PASS;
			data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
			tcp = data + L4;
			if ((void *)(tcp + 1) > end)
				return PASS;
		}
		p->is_tcp = 1;
		p->header = tcp->doff * 4;
		p->flags = ((__u8 *)tcp)[13];
		p->seq = bpf_ntohl(tcp->seq);
		p->ack = bpf_ntohl(tcp->ack_seq);
		if (p->header < sizeof(*tcp) || p->header > bytes) {
			count(MALFORMED);
			return PASS;
		}
		p->payload = bytes - p->header;
	} else {
		struct udphdr *udp = data + L4;
		__u32 length = bpf_ntohs(udp->len);

		p->header = sizeof(*udp);
		if (length < sizeof(*udp) || length > bytes) {
			count(MALFORMED);
			return PASS;
		}
		p->payload = length - sizeof(*udp);
	}
	if (skb->gso_size)
		p->segment = skb->gso_size + (L4 - ETH_HLEN) + p->header;
	return GO_ON;
}
