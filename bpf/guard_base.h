/* What the parts of the guard program stand on: maps, the clock, and a packet as it was seen. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "guard.h"

#define SYN_FLAG 2
#define RST_FLAG 4
#define ACK_FLAG 16

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct guard_settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct spot);
	__type(value, struct guarded_ports);
} guarded_ports SEC(".maps");

/* Who has what comes to an address without belonging to a port: spots with protocol 0. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct spot);
	__type(value, __u32);
} guarded_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_GUARDED);
	__type(key, __u32);
	__type(value, struct guarded);
} guarded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_GUARDED);
	__type(key, __u32);
	__type(value, struct guard_counts);
} guard_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_TAGS);
	__type(key, __u32);
	__type(value, struct guard_hits);
} guard_hits SEC(".maps");

/* A packet as it was seen, and what is found out about it. */
struct seen {
	__be32 saddr[4], daddr[4]; /* IPv4 in the first */
	__u64 now;                 /* 0: the_time() was not asked yet */
	__u32 fragment_id;
	__u32 sequence;            /* TCP */
	__u16 sport, dport;
	__u16 network, transport;  /* where these headers begin */
	__u16 length;              /* from the network header on; more than 65,535 is 65,535 */
	__u16 window, id;
	__u8 is_ipv6, protocol;
	__u8 header;               /* length of the TCP or UDP header */
	__u8 flags, hops;
	__u8 fragment;             /* NO_FRAGMENT, FIRST_FRAGMENT, LATER_FRAGMENT */
	__u8 icmp_type;
	__u8 is_malformed, is_illegal;
	__u8 is_established;       /* 0: not asked yet, YES, NO */
	__u16 tag;                 /* of what decided */
	__u32 listener;
};

#define NO_FRAGMENT 0
#define FIRST_FRAGMENT 1
#define LATER_FRAGMENT 2
#define YES 1
#define NO 2

/* Read where it matters, because reading it costs as much as judging: most packets do without. */
static __always_inline __u64 the_time(struct seen *p, const struct guard_settings *with)
{
	if (!p->now)
		p->now = with->clock ? with->clock : bpf_ktime_get_coarse_ns();
	return p->now;
}

static __always_inline void hit(__u32 tag, int is_established)
{
	struct guard_hits *hits;

	if (!tag)
		return;
	hits = bpf_map_lookup_elem(&guard_hits, &tag);
	if (!hits)
		return;
	hits->packets += 1;
	hits->established += is_established;
}
