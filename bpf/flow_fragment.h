/* Fragments of one family: the first has the ports and is carried like any packet, though without TCP's states; the
 * later ones go where it went. Included once for each. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#undef FRAGMENT
#if FAMILY == 4
#define FRAGMENT L4 /* where what follows the fragment's header begins */
struct fragment_key4 {
	__be32 saddr[1], daddr[1];
	__be32 id;
	__u32 protocol;
};
#else
#define FRAGMENT (L4 + 8)
struct fragment_key6 {
	__be32 saddr[4], daddr[4];
	__be32 id;
	__u32 protocol;
};
#endif

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, S(fragment_key));
	__type(value, S(ends));
} F(fragments) SEC(".maps");

/* Stacks are small. */
S(fragment_desk) {
	struct packet packet;
	struct bpf_fib_lookup fib;
	S(key) key;
	S(fragment_key) which;
	S(ends) to, nobody;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, S(fragment_desk));
} F(fragment_desks) SEC(".maps");

static __noinline int F(fragment)(struct __sk_buff *skb)
{
	S(fragment_desk) *desk;
	S(ends) *sent;
	S(leg) *leg = 0;
	void *data, *end;
	__u32 offset = 0, now = ticks();
	__u64 difference;
	long found;
	int verdict;

	desk = bpf_map_lookup_elem(&F(fragment_desks), &offset);
	if (!desk)
		return PASS;
	__builtin_memset(desk, 0, sizeof(*desk));
	struct packet *p = &desk->packet;
	struct bpf_fib_lookup *fib = &desk->fib;
	S(key) *key = &desk->key;

	if (bpf_skb_pull_data(skb, skb->len < FRAGMENT + 20 ? skb->len : FRAGMENT + 20))
		return PASS;
	data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
	if (data + FRAGMENT > end)
		return PASS;
#if FAMILY == 4
	struct iphdr *ip = data + ETH_HLEN;

	if (ip->version != 4 || ip->ihl != 5) {
		count(UNUSUAL);
		return PASS;
	}
	offset = bpf_ntohs(ip->frag_off) & 0x1fff;
	desk->which.id = ip->id;
	key->protocol = ip->protocol;
	p->flowinfo = ip->tos;
	p->hops = ip->ttl;
	p->segment = bpf_ntohs(ip->tot_len);
#else
	struct ipv6hdr *ip = data + ETH_HLEN;
	__u8 *header = data + L4;

	offset = bpf_ntohs(*(__be16 *)(header + 2)) >> 3;
	desk->which.id = *(__be32 *)(header + 4);
	key->protocol = header[0];
	p->flowinfo = *(__be32 *)ip & bpf_htonl(0x0fffffff);
	p->hops = ip->hop_limit;
	p->segment = bpf_ntohs(ip->payload_len) + 40;
#endif
	if (key->protocol != IPPROTO_UDP && key->protocol != IPPROTO_TCP)
		return PASS;
	if (p->segment > skb->len - ETH_HLEN) {
		count(MALFORMED);
		return PASS;
	}
	F(network_ends)(&key->ends, ip);
	__builtin_memcpy(desk->which.saddr, key->ends.saddr, 4 * WORDS);
	__builtin_memcpy(desk->which.daddr, key->ends.daddr, 4 * WORDS);
	desk->which.protocol = key->protocol;
	p->is_tcp = key->protocol == IPPROTO_TCP;
	p->is_fragment = p->is_slow = 1;
	if (offset) {
		sent = bpf_map_lookup_elem(&F(fragments), &desk->which);
		if (!sent) {
			struct spot spot = { .protocol = key->protocol, .is_ipv6 = WORDS == 4 };

			/* Ours if something is carried for this address; what the stack has waits there for its first. */
			__builtin_memcpy(spot.address_be, key->ends.daddr, 4 * WORDS);
			if (!bpf_map_lookup_elem(&listeners, &spot))
				return PASS;
			count(FRAGMENT_DROPPED);
			bpf_map_update_elem(&F(fragments), &desk->which, &desk->nobody, BPF_NOEXIST);
			return DROP;
		}
		desk->to = *sent;
		if (!desk->to.sport)
			return PASS; /* the first went to the stack */
	} else {
		if (data + FRAGMENT + 20 > end)
			return PASS; /* the smallest first fragment of anybody has more */
		key->ends.sport = *(__be16 *)(data + FRAGMENT);
		key->ends.dport = *(__be16 *)(data + FRAGMENT + 2);
		leg = F(find)(key);
		if (leg && !p->is_tcp && F(begins_anew)(p, key, leg)) {
			F(forget)(key, leg, EVENT_REPLACED);
			leg = 0;
		}
		if (!leg) {
			verdict = p->is_tcp ? PASS : F(first)(skb, p, key, fib);
			if (verdict == GO_ON)
				leg = bpf_map_lookup_elem(&F(opening), key);
			if (!leg || verdict != GO_ON) {
				bpf_map_update_elem(&F(fragments), &desk->which, &desk->nobody, BPF_ANY);
				return verdict == GO_ON ? PASS : verdict;
			}
		}
		if (leg->tally.state >> HEADER_SHIFT) {
			if (leg->tally.state & IS_ORIGIN_LEG) {
				F(count_drop)(leg); /* nobody can take the header away: what follows would have to move by its length */
				count(UNUSUAL);
				return DROP;
			}
			bpf_map_update_elem(&F(fragments), &desk->which, &desk->nobody, BPF_ANY);
			return PASS; /* the engine can put a header there, at the cost of a flow of its own */
		}
		desk->to = leg->ends;
		bpf_map_update_elem(&F(fragments), &desk->which, &desk->to, BPF_ANY);
	}
	if (p->hops <= 1) {
		count(EXPIRED);
		return DROP;
	}
	found = F(route)(skb, p, &desk->to, fib);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) {
		count(found == BPF_FIB_LKUP_RET_FRAG_NEEDED ? TOO_BIG : NO_ROUTE);
		return DROP;
	}
	data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
	if (data + FRAGMENT > end)
		return DROP;
	difference = F(difference)(&key->ends, &desk->to);
	__builtin_memcpy(((struct ethhdr *)data)->h_dest, fib->dmac, ETH_ALEN);
	__builtin_memcpy(((struct ethhdr *)data)->h_source, fib->smac, ETH_ALEN);
	F(readdress)(data + ETH_HLEN, &desk->to, difference);
	if (leg) {
		__u32 before = ports_of(key->ends.sport, key->ends.dport), after = ports_of(desk->to.sport, desk->to.dport);

		if (data + FRAGMENT + 8 > end)
			return DROP;
		*(__u32 *)(data + FRAGMENT) = after;
		if (!p->is_tcp) {
			p->payload = bpf_ntohs(*(__be16 *)(data + FRAGMENT + 4)) - 8; /* of the whole datagram */
			p->counted = p->payload;
			if (!(leg->tally.state & ESTABLISHED))
				F(handshake)(p, key, leg);
			leg = F(find)(key);
			if (leg) {
				if (leg->tally.state & ESTABLISHED)
					__sync_fetch_and_add(&leg->tally.bytes, p->payload);
				F(account)(leg, p, 1, now);
			}
		}
		F(fix_checksum)(skb, FRAGMENT + (p->is_tcp ? 16 : 6), difference, (__u64)after + (__u32)~before,
				p->is_tcp ? 0 : BPF_F_MARK_MANGLED_0);
	}
	return leave(p, fib, found);
}
