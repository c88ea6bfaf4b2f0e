/* The longest prefix of an address in the tables of its listener, see guard.h for what a table is. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

struct lines {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct line));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_SETS);
	__type(key, __u32);
	__array(values, struct lines);
} sets4 SEC(".maps"), sets6 SEC(".maps");

static __always_inline struct line *line_at(void *table, __u32 at)
{
	return bpf_map_lookup_elem(table, &at);
}

static __always_inline __u32 value_in4(const struct run4 *run, __u32 key)
{
	__u64 beyond = (__u64)key + 1;
	__u32 at = 0;

#pragma unroll
	for (int i = 1; i < 8; i++) /* the sign of a difference: no branch to be mispredicted */
		at += (__u64)(run->keys[i] - beyond) >> 63;
	return run->values[at & 7];
}

static __always_inline __u32 value_in6(const struct run6 *run, __u64 key)
{
	if (key >= run->keys[2])
		return key >= run->keys[3] ? key >= run->keys[4] ? run->values[4] : run->values[3] : run->values[2];
	return key >= run->keys[1] ? run->values[1] : run->values[0];
}

/* From a descriptor down to a value. `is_ipv6` is a constant. */
static __always_inline __u32 descend(void *table, __u64 descriptor, __u64 key, int is_ipv6)
{
	struct line *line;
	__u32 at = 0, base, count;

	for (int i = 0; i < (is_ipv6 ? MAX_DEPTH : 4); i++) {
		__u32 bits = descriptor >> 32 & 31, slot;

		if (!(descriptor & IS_NODE))
			break;
		slot = is_ipv6 ? key << (at & 63) >> ((64 - bits) & 63) : (__u32)key << (at & 31) >> ((32 - bits) & 31);
		line = line_at(table, (__u32)descriptor + (slot >> 3));
		if (!line)
			return 0;
		descriptor = line->words[slot & 7];
		at += bits;
	}
	if (descriptor & IS_UNIFORM)
		return descriptor;
	base = descriptor;
	count = descriptor >> 32 & 0xff;
	for (int i = 0; i < MAX_RUN_STEPS; i++) {
		__u32 half = count >> 1;

		if (!half)
			break;
		line = line_at(table, base + half);
		if (!line)
			return 0;
		if (key >= (is_ipv6 ? line->words[0] : (__u32)line->words[0])) {
			base += half;
			count -= half;
		} else {
			count = half;
		}
	}
	line = line_at(table, base);
	if (!line)
		return 0;
	return is_ipv6 ? value_in6((void *)line, key) : value_in4((void *)line, key);
}

/* What an entry that ends stands for now. */
static __always_inline __u32 unmark(void *table, __u32 marks, __u32 value, __u64 now)
{
	for (int i = 0; i < MAX_MARKS_BELOW; i++) {
		struct mark *mark;
		struct line *line;
		__u32 at = value & VALUE_TAG;

		if (!(value & VALUE_MARK))
			return value;
		line = line_at(table, marks + (at >> 2));
		if (!line)
			return 0;
		mark = (struct mark *)line->words + (at & 3);
		value = mark->expires > now ? mark->value : mark->otherwise;
	}
	return value & VALUE_MARK ? 0 : value;
}

static __noinline __u32 value4(__u32 set, __u32 address, __u64 now)
{
	void *table = bpf_map_lookup_elem(&sets4, &set);
	struct line *head;
	__u32 value;

	if (!table)
		return 0;
	head = line_at(table, 0);
	if (!head)
		return 0;
	value = descend(table, head->words[0], address, 0);
	return value & VALUE_MARK ? unmark(table, head->words[1], value, now) : value;
}

static __noinline __u32 value6(__u32 set, __u64 upper, __u64 lower, __u64 now)
{
	void *table = bpf_map_lookup_elem(&sets6, &set);
	struct line *head, *line;
	__u32 value, marks;

	if (!table)
		return 0;
	head = line_at(table, 0);
	if (!head)
		return 0;
	marks = head->words[1];
	value = descend(table, head->words[0], upper, 1);
	if (value & VALUE_DEEPER) {
		line = line_at(table, value & VALUE_LINE);
		if (!line)
			return 0;
		value = descend(table, line->words[0], lower, 1);
	}
	return value & VALUE_MARK ? unmark(table, marks, value, now) : value;
}

static __always_inline __u32 value_of(__u32 set, const struct seen *p)
{
	if (!set)
		return 0;
	if (!p->is_ipv6)
		return value4(set, bpf_ntohl(p->saddr[0]), p->now);
	return value6(set, (__u64)bpf_ntohl(p->saddr[0]) << 32 | bpf_ntohl(p->saddr[1]),
		      (__u64)bpf_ntohl(p->saddr[2]) << 32 | bpf_ntohl(p->saddr[3]), p->now);
}

/* Of both tables of a listener: the longer prefix decides; of equals, allow. */
static __always_inline __u32 access_of(const struct guarded *listener, const struct seen *p)
{
	__u32 one = value_of(listener->sets[0], p), other = value_of(listener->sets[1], p);
	__u32 length = one >> VALUE_LENGTH & 0xff, others = other >> VALUE_LENGTH & 0xff;

	if (!one || !other)
		return one | other;
	if (length != others)
		return length > others ? one : other;
	return other & VALUE_ALLOW ? other : one;
}
