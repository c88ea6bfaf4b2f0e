/* What the parts of the flow program stand on: maps, clocks, counters, and a packet as it was read. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"

#define AF_INET 2
#define AF_INET6 10
#define LOOPBACK 1 /* its index in every network namespace */
#define PASS TC_ACT_UNSPEC /* to the next program, then to the stack */
#define DROP TC_ACT_SHOT
#define GO_ON 1000 /* no verdict yet */
#define IS_ICMP 1002
#define IS_FRAGMENT 1003

#define CSUM_IPV6 (1ULL << 7) /* BPF_F_IPV6; kernels before it refuse it, headers do not have it */

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#define WINDOW (1 << 25)     /* no sender is further ahead of, or behind, what it was seen to send */
#define TICK_SHIFT 20        /* about a millisecond */
#define FINE_SHIFT 14        /* about 16 us */
#define TICKS_OF_A_SECOND 954
#define FINE_OF_A_MILLISECOND 61
#define NARROW 1280          /* every link takes packets of this size: of IPv6 it is required */
#define SILENCE 362          /* ticks: longer than the first time-out of a sender whose way is short */
#define FEW_EVENTS (1 << 14) /* bytes of the ring that wait to be read */
#define MANY_EVENTS (1 << 17)

/* Where flows are translated to; set when the program is loaded. */
const volatile __u32 source_first = 1024;
const volatile __u32 source_count = 31744;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct spot);
	__type(value, struct listeners);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_APPLICATIONS);
	__type(key, __u32);
	__type(value, struct application);
} applications SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_APPLICATIONS);
	__type(key, __u32);
	__type(value, struct balance);
} balances SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_APPLICATIONS);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOW_VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} flow_verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

/* A packet of a flow, or of one to be: what was read of it before anything is decided. */
struct packet {
	__u32 seq, ack; /* TCP */
	__u32 payload;
	__u32 flowinfo; /* IPv6, as it came; IPv4: the type of service */
	__u16 segment;  /* of the network layer and up: the largest that a link will have to take */
	__u16 header;   /* of TCP: its length */
	__u8 flags;     /* of TCP */
	__u8 is_tcp, is_fragment;
	__u8 hops;
	/* What becomes of it, beyond its addresses. */
	__u8 is_slow;   /* ask the neighbour anew */
	__s16 grow;     /* by a header in front of the payload */
	__u32 plain;    /* sum of what was changed in it besides addresses and ports */
	__u32 seq_more, ack_less;
	__u32 counted; /* of the payload: what was not seen before */
};

static __always_inline void count(__u32 verdict)
{
	__u64 *counter = bpf_map_lookup_elem(&flow_verdicts, &verdict);

	if (counter)
		*counter += 1;
}

static __always_inline struct totals *totals_of(__u32 application)
{
	return bpf_map_lookup_elem(&totals, &application);
}

static __always_inline __u32 index_of(const struct tally *tally)
{
	return tally->state & INDEX;
}

static __always_inline __u32 ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

static __always_inline __u32 fine_time(void)
{
	return bpf_ktime_get_ns() >> FINE_SHIFT;
}

static __always_inline __u32 short_time(__u32 since)
{
	__u32 passed = fine_time() - since;

	return passed > 0xffff ? 0xffff : passed;
}

/* A new round trip time, into the one half of a number; the other stays. What rounding would lose again and again is left to chance. */
static __always_inline void learn(__u32 *rtts, __u32 shift, __u32 found)
{
	__u32 before = *rtts >> shift & 0xffff;

	if (before)
		found = (7 * before + found + (bpf_get_prandom_u32() & 7)) / 8;
	*rtts = (*rtts & ~(0xffffu << shift)) | found << shift;
}

/* A number that is within 1 and `most`, a power of two, in words that verifiers before 6.6 follow too: those forget what
 * comparisons told, and that of 5.15 all bounds of 32 bits that were on the stack. */
static __always_inline __u64 one_to(__u64 most, __u64 number)
{
	number -= 1;
	asm volatile("" : "+r"(number)); /* the compiler knows better, and would leave the bound out */
	return (number & (most - 1)) + 1;
}

/* Ones' complement sums: words are added as they lie in memory, the order of bytes does not matter. */
static __always_inline __u32 fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

static __always_inline __u16 fold16(__u64 sum)
{
	__u32 half = fold32(sum);

	half = (half & 0xffff) + (half >> 16);
	return (half & 0xffff) + (half >> 16);
}

static __always_inline void set_bits(struct tally *tally, __u32 bits)
{
	__sync_fetch_and_or(&tally->state, bits);
}

static __always_inline void clear_bits(struct tally *tally, __u32 bits)
{
	__sync_fetch_and_and(&tally->state, ~bits);
}

static __always_inline __u32 ports_of(__be16 sport, __be16 dport)
{
	return (__u32)sport | (__u32)dport << 16;
}

static __always_inline int leave(const struct packet *p, struct bpf_fib_lookup *fib, long found)
{
	if (found == BPF_FIB_LKUP_RET_SUCCESS && !p->is_slow)
		return bpf_redirect(fib->ifindex, 0);
	fib->ipv6_src[3] = fib->family; /* in front of ipv6_dst, the next hop: a struct bpf_redir_neigh */
	return bpf_redirect_neigh(fib->ifindex, (void *)&fib->ipv6_src[3], sizeof(struct bpf_redir_neigh), 0);
}

/* What a length that grows adds to a sum. */
static __always_inline __u32 grown(__u32 length, int grow)
{
	return fold32((__u64)bpf_htons(length + grow) + (__u32)~(__u32)bpf_htons(length));
}

static __always_inline __u32 grow_length(void *data, void *end, __u32 at, int grow)
{
	__be16 *length = data + at;
	__u32 sum;

	if ((void *)(length + 1) > end || !grow)
		return 0;
	sum = grown(bpf_ntohs(*length), grow);
	*length = bpf_htons(bpf_ntohs(*length) + grow);
	return sum;
}
