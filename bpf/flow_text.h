/* The PROXY header (v1, v2) or Simple Proxy Protocol header of a flow, as bytes. Which of them it is follows from its
 * length: see header_of in flow_header.h. Wire formats: crates/causeway-wire.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#define V2_IPV4 28
#define V2_IPV6 52
#define SIMPLE_BYTES 38
#define V1_IPV6 94 /* and the ports: addresses are written in full, so that no v1 header is as long as a v2 one */
#define MOST_TEXT 128
#define CHUNK 128

/* Stacks are small. */
struct scratch {
	__u8 text[MOST_TEXT + 64]; /* a header; zeroes behind it */
	__u8 chunk[CHUNK];
	__u8 options[2][128]; /* of TCP: as they came, and as they go on; 40 are used */
} __attribute__((aligned(8)));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *scratch_of_processor(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratches, &zero);
}

#define OPTION(scratch, at) (scratch)->options[1][(at) & 63]

/* Functions with a loop are global: the verifier looks at each of them once, whatever its arguments are. */
static __always_inline __u32 put(struct scratch *scratch, __u32 at, __u8 byte)
{
	scratch->text[at & (MOST_TEXT - 1)] = byte;
	return at + 1;
}

__noinline __u32 put_number(__u32 at, __u32 number)
{
	__u32 unit = number >= 10000 ? 10000 : number >= 1000 ? 1000 : number >= 100 ? 100 : number >= 10 ? 10 : 1;
	struct scratch *scratch = scratch_of_processor();

	if (!scratch)
		return at;
	for (int i = 0; i < 5; i++) {
		at = put(scratch, at, '0' + number / unit % 10);
		if (unit == 1)
			break;
		unit /= 10;
	}
	return at;
}

__noinline __u32 put_address4(__u32 at, __u32 address)
{
	struct scratch *scratch = scratch_of_processor();

	if (!scratch)
		return at;
	address = bpf_ntohl(address);
	for (int i = 0; i < 4; i++) {
		at = put(scratch, at, i ? '.' : ' ');
		at = put_number(at, address >> 24);
		address <<= 8;
	}
	return at;
}

/* 32 bits of it: in full, so that the length is always the same. */
__noinline __u32 put_groups(__u32 at, __u32 groups)
{
	struct scratch *scratch = scratch_of_processor();

	if (!scratch)
		return at;
	groups = bpf_ntohl(groups);
	for (int i = 0; i < 8; i++) {
		__u8 digit = groups >> 28;

		if (!(i & 3))
			at = put(scratch, at, ':');
		at = put(scratch, at, digit + (digit < 10 ? '0' : 'a' - 10));
		groups <<= 4;
	}
	return at;
}

static __always_inline __u32 put_address6(struct scratch *scratch, __u32 at, const __be32 *address)
{
	__u32 begin = at;

#pragma unroll
	for (int i = 0; i < 4; i++)
		at = put_groups(at, address[i]);
	put(scratch, begin, ' ');
	return at;
}

static __always_inline __u32 put_ports(struct scratch *scratch, __u32 at, __be16 sport, __be16 dport)
{
	at = put_number(put(scratch, at, ' '), bpf_ntohs(sport));
	at = put_number(put(scratch, at, ' '), bpf_ntohs(dport));
	return put(scratch, put(scratch, at, '\r'), '\n');
}

static __always_inline __u32 v1_4(struct scratch *scratch, const struct ends4 *ends)
{
	__u32 at;

	__builtin_memcpy(scratch->text, "PROXY TCP4", 10);
	at = put_address4(10, ends->saddr[0]);
	at = put_address4(at, ends->daddr[0]);
	return put_ports(scratch, at, ends->sport, ends->dport);
}

static __always_inline __u32 v1_6(struct scratch *scratch, const struct ends6 *ends)
{
	__u32 at;

	__builtin_memcpy(scratch->text, "PROXY TCP6", 10);
	at = put_address6(scratch, 10, ends->saddr);
	at = put_address6(scratch, at, ends->daddr);
	return put_ports(scratch, at, ends->sport, ends->dport);
}

static __always_inline void v2(__u8 *text, __u8 family, __u8 bytes)
{
	__builtin_memcpy(text, "\r\n\r\n\0\r\nQUIT\n", 12);
	text[12] = 0x21;
	text[13] = family;
	text[14] = 0;
	text[15] = bytes;
}

/* Bring the edges of SACK blocks in an option at `at` back by `more`. */
__noinline int lower_sack(__u32 at, __u32 more)
{
	struct scratch *scratch = scratch_of_processor();
	__u32 end, seq;

	if (!scratch || at > 36)
		return 0;
	end = at + OPTION(scratch, at + 1);
	at += 2;
	for (int edge = 0; edge < 8; edge++) {
		if (at + 4 > end || at > 36)
			break;
		seq = (__u32)OPTION(scratch, at) << 24 | OPTION(scratch, at + 1) << 16 | OPTION(scratch, at + 2) << 8 |
		      OPTION(scratch, at + 3);
		seq -= more;
		OPTION(scratch, at) = seq >> 24;
		OPTION(scratch, at + 1) = seq >> 16;
		OPTION(scratch, at + 2) = seq >> 8;
		OPTION(scratch, at + 3) = seq;
		at += 4;
	}
	return 0;
}

__noinline int blank_option(__u32 at, __u32 size)
{
	struct scratch *scratch = scratch_of_processor();

	if (!scratch)
		return 0;
	for (__u32 i = 0; i < 40; i++) {
		if (i >= size)
			break;
		OPTION(scratch, at + i) = 1;
	}
	return 0;
}

/* The largest segment that is told leaves room for a header of `more` bytes, and is no larger than `most`. */
__noinline int lower_mss(__u32 at, __u32 more, __u32 most)
{
	struct scratch *scratch = scratch_of_processor();
	__u32 mss;

	if (!scratch || at > 36)
		return 0;
	mss = OPTION(scratch, at + 2) << 8 | OPTION(scratch, at + 3);
	mss = mss > more + 64 ? mss - more : mss;
	mss = mss > most ? most : mss;
	OPTION(scratch, at + 2) = mss >> 8;
	OPTION(scratch, at + 3) = mss;
	return 0;
}
