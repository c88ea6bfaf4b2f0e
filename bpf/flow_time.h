/* Round trip times of flows that are two-way, by TCP timestamps (RFC 7323). Included once for each family.
 *
 * Once a second and direction the time of a segment that is new is noted, and of the first acknowledgement of it. Who
 * echoes a later stamp than the segment had may mean a copy of it: that is not counted (Karn). The mean is RFC 6298's,
 * with an eighth of the new.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, S(key)); /* of the leg that will acknowledge */
	__type(value, struct timing);
} F(timings) SEC(".maps");

/* An acknowledgement of what was noted, or a segment to be. */
static __noinline int F(time)(struct __sk_buff *skb, const struct packet *p, const S(key) *key, S(leg) *leg)
{
	__be32 option[3]; /* nop, nop, timestamp, as everybody writes it where there is nothing else */
	struct timing timing = {}, *noted;
	S(leg) *other;
	S(key) back;
	int has_stamp = p->header == 32 && !bpf_skb_load_bytes(skb, L4 + 20, option, sizeof(option)) &&
			option[0] == bpf_htonl(0x0101080a);

	F(reverse)(&back, &leg->ends, key->protocol);
	other = F(find)(&back);
	if (!other)
		return 0;
	if (leg->tally.state & TIMED) {
		noted = bpf_map_lookup_elem(&F(timings), key);
		if (noted && (__s32)(p->ack - noted->end) < 0)
			return 0;
		if (noted && has_stamp && (__s32)(bpf_ntohl(option[2]) - noted->stamp) <= 0) {
			if (leg->tally.state & IS_ORIGIN_LEG)
				learn(&leg->extra, 0, short_time(noted->since));
			else
				learn(&other->extra, 16, short_time(noted->since));
		}
		bpf_map_delete_elem(&F(timings), key);
		clear_bits(&leg->tally, TIMED);
	}
	if (!has_stamp || !p->counted || !p->is_slow || other->tally.state & TIMED)
		return 0;
	timing.since = fine_time();
	timing.end = p->seq + p->payload;
	timing.stamp = bpf_ntohl(option[1]);
	if (!bpf_map_update_elem(&F(timings), &back, &timing, BPF_ANY))
		set_bits(&other->tally, TIMED);
	return 0;
}
