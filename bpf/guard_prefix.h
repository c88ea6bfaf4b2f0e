/* The longest prefix of an address in the tables of its listener, see guard.h for what a table is.
 *
 * No calls and hardly a branch on the way: a call costs as much as all of a line's keys here (docs/decisions/0009), and a
 * branch on what differs from address to address more. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#define TABLE(name, windows, bits, flags)                             \
	struct name##_table {                                         \
		__uint(type, BPF_MAP_TYPE_ARRAY);                     \
		__uint(map_flags, BPF_F_MMAPABLE | (flags));          \
		__uint(max_entries, windows);                         \
		__uint(key_size, sizeof(__u32));                      \
		__uint(value_size, 1 << (bits));                      \
	};                                                            \
	struct {                                                      \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);             \
		__uint(max_entries, 2 * MAX_SETS);                    \
		__type(key, __u32);                                   \
		__array(values, struct name##_table);                 \
	} name##_tables SEC(".maps")

/* The kernel makes one of each as a pattern while it loads, in full size. Only of the huge ones the program does not know
 * the size, at the price of calls: 128 MiB for a moment would be more than many a machine has to spare. */
TABLE(small, 1, SMALL_BITS, 0);
TABLE(medium, 1, WINDOW_BITS, 0);
TABLE(large, LARGE_WINDOWS, WINDOW_BITS, 0);
TABLE(huge, 1, WINDOW_BITS, BPF_F_INNER_MAP);

/* A table and the size of its windows, which is a constant wherever this is inlined. */
struct table {
	void *map;
	__u32 bits;
};

static __always_inline void *line_at(struct table table, __u32 line)
{
	__u32 window = line >> (table.bits - 6);
	void *bytes = bpf_map_lookup_elem(table.map, &window);

	return bytes ? bytes + ((line << 6) & ((1u << table.bits) - 64)) : 0;
}

static __always_inline struct record *record_at(struct table table, __u32 record)
{
	void *line = line_at(table, record >> 2);

	return line ? line + (record & 3) * sizeof(struct record) : 0;
}

#define ONES16 0x0001000100010001ull
#define ONES32 0x0000000100000001ull

/* How many of the keys, four or two in a word, are above: their upper bit stays when what is to be above is taken off. */
static __always_inline __u32 above16(const __u64 *words, const int count, __u64 key)
{
	__u64 beyond = ((key & 0x7fff) + 1) * ONES16, sum = 0;

#pragma unroll
	for (int i = 0; i < count; i++)
		sum += (words[i] - beyond) >> 15 & ONES16;
	return sum * ONES16 >> 48;
}

static __always_inline __u32 above32(const __u64 *words, const int count, __u64 key)
{
	__u64 beyond = ((key & 0x7fffffff) + 1) * ONES32, sum = 0;

#pragma unroll
	for (int i = 0; i < count; i++)
		sum += (words[i] - beyond) >> 31 & ONES32;
	return sum * ONES32 >> 32;
}

static __always_inline __u32 above64(const __u64 *words, const int count, __u64 key)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < count; i++) /* the borrow of key - word */
		sum += ((~key & words[i]) | (~(key ^ words[i]) & (key - words[i]))) >> 63;
	return sum;
}

/* What a line has for a key. `with_whole_keys` is a constant. */
static __always_inline __u32 value_in(const void *line, const void *head, __u32 kind, __u64 key, int with_whole_keys)
{
	const __u8 *bytes = line;
	const __u32 *words = line;
	__u32 at;

	if (kind == KIND_LINE16) {
		at = 20 - above16(line, 5, key);
		if (at > 20)
			return 0;
		at = bytes[40 + at];
	} else if (kind == KIND_LINE32) {
		at = bytes[48 + ((12 - above32(line, 6, key)) & 15)];
	} else if (with_whole_keys && kind == KIND_LINE64) {
		at = bytes[56 + ((7 - above64(line, 7, key)) & 7)];
	} else if (kind == (KIND_LINE16 | KIND_WIDE)) {
		at = 8 - above16(line, 2, key);
		return at > 8 ? 0 : words[4 + at];
	} else if (kind == (KIND_LINE32 | KIND_WIDE)) {
		return words[6 + ((6 - above32(line, 3, key)) & 7)];
	} else if (with_whole_keys && kind == (KIND_LINE64 | KIND_WIDE)) {
		at = 5 - above64(line, 5, key);
		return at > 5 ? 0 : words[10 + at];
	} else {
		return 0;
	}
	return ((const __u32 *)(head + sizeof(struct line)))[at & 255];
}

static __always_inline __u32 ones_of(__u32 bits)
{
	bits -= bits >> 1 & 0x55555555;
	bits = (bits & 0x33333333) + (bits >> 2 & 0x33333333);
	return ((bits + (bits >> 4)) & 0x0f0f0f0f) * 0x01010101 >> 24;
}

/* From a descriptor down to a value. */
static __always_inline __u32 descend(struct table table, const void *head, __u32 descriptor, __u64 key, __u32 rest,
				     int is_ipv6)
{
	struct line *line;
	__u32 kind, begins = 0;

	for (int i = 0; i < (is_ipv6 ? MAX_DEPTH6 : MAX_DEPTH4); i++) {
		__u32 bits = descriptor >> 23 & 31, slot;
		__u64 entry;

		if (KIND(descriptor) != KIND_NODE)
			break;
		rest -= bits;
		slot = key >> (rest & 63) & ((1u << bits) - 1);
		line = line_at(table, (descriptor & NODE_LINE) + (slot >> 3));
		if (!line)
			return 0;
		entry = ((volatile __u64 *)line)[slot & 7]; /* at once: it may be changing */
		descriptor = entry >> 32;
		begins = entry;
	}
	kind = KIND(descriptor);
	if (!(kind & (kind - 1)))
		return descriptor;
	begins &= (2ull << (key >> ((rest - PART_BITS) & 63) & 31)) - 1; /* 0 where there are not so many bits */
	line = line_at(table, (descriptor & VALUE_RECORD) + ones_of(begins));
	return line ? value_in(line, head, kind, key, is_ipv6) : 0;
}

/* What an entry that ends stands for now. */
static __always_inline __u32 unmark(struct table table, __u32 value, struct seen *p, const struct guard_settings *with)
{
	for (int i = 0; i < MAX_MARKS_BELOW; i++) {
		struct record *mark;

		if (KIND(value) != KIND(VALUE_MARK))
			return value;
		mark = record_at(table, value & VALUE_RECORD);
		if (!mark)
			return 0;
		value = mark->key > the_time(p, with) ? mark->value : mark->otherwise;
	}
	return KIND(value) == KIND(VALUE_MARK) ? 0 : value;
}

static __always_inline __u32 find(struct table table, struct seen *p, const struct guard_settings *with)
{
	struct table_head *head = line_at(table, 0);
	__u64 key, lower;
	__u32 value;
	int is_outside;

	if (!head)
		return 0;
	if (!p->is_ipv6) {
		key = bpf_ntohl(p->saddr[0]);
		is_outside = (key ^ head->base) >> (head->shift & 63) >> 1 != 0;
		value = is_outside ? descend(table, head, head->outside, key, 32, 0)
				   : descend(table, head, head->inside, key, head->shift + 1, 0);
		return unmark(table, value, p, with);
	}
	key = (__u64)bpf_ntohl(p->saddr[0]) << 32 | bpf_ntohl(p->saddr[1]);
	lower = (__u64)bpf_ntohl(p->saddr[2]) << 32 | bpf_ntohl(p->saddr[3]);
	is_outside = (key ^ head->base) >> (head->shift & 63) >> 1 != 0;
	value = descend(table, head, is_outside ? head->outside : head->inside, key, is_outside ? 64 : head->shift + 1, 1);
	if (KIND(value) == KIND(VALUE_DEEPER)) {
		if (value & VALUE_HOST) {
			struct record *host = record_at(table, value & VALUE_RECORD);

			if (!host)
				return 0;
			value = host->key == lower ? host->value : host->otherwise;
		} else {
			struct line *line = line_at(table, value & VALUE_RECORD);

			if (!line)
				return 0;
			value = descend(table, head, line->words[0], lower, 64, 1);
		}
	}
	return unmark(table, value, p, with);
}

static __always_inline __u32 value_of(__u32 set, struct seen *p, const struct guard_settings *with)
{
	struct table table = { .bits = WINDOW_BITS };
	__u32 slot = 2 * set + p->is_ipv6;

	table.map = bpf_map_lookup_elem(&medium_tables, &slot);
	if (table.map)
		return find(table, p, with);
	table.map = bpf_map_lookup_elem(&large_tables, &slot);
	if (table.map)
		return find(table, p, with);
	table.map = bpf_map_lookup_elem(&huge_tables, &slot);
	if (table.map)
		return find(table, p, with);
	table.bits = SMALL_BITS;
	table.map = bpf_map_lookup_elem(&small_tables, &slot);
	return table.map ? find(table, p, with) : 0;
}

/* Of a listener's bans. Only SYNs ask, so that a call is cheap enough; the verifier looks at it once. */
__noinline __u32 ban_of(struct seen *p, const struct guard_settings *with, __u32 set)
{
	return p && with && set < MAX_SETS ? value_of(set, p, with) : 0;
}

/* Of both tables of a listener: the longer prefix decides; of equals, allow. */
static __always_inline __u32 access_of(const struct guarded *listener, struct seen *p, const struct guard_settings *with)
{
	/* Both in one reading: they are changed together, and no packet is to meet one of the old and one of the new. */
	__u32 best = 0, sets = *(const volatile __u32 *)listener->sets;

	for (int i = 0; i < 2; i++) {
		__u32 value, length, best_length = best >> VALUE_LENGTH & 0xff;
		__u16 set;

		__builtin_memcpy(&set, (__u8 *)&sets + 2 * i, sizeof(set));
		if (!set)
			continue;
		value = value_of(set, p, with);
		length = value >> VALUE_LENGTH & 0xff;
		if (!value)
			continue;
		if (!best || length > best_length || (length == best_length && value & VALUE_ALLOW))
			best = value;
	}
	return best;
}
