/* What the flow program and user space share: the only definition; crates/causeway-bpf/src/flow mirrors it.
 *
 * A flow is two entries of one table, one for each direction: the key is a packet's addresses and ports as it
 * arrives, the value (a leg) what they become, and all that is known of that direction. The other direction's key
 * is what this one becomes, with its ends swapped.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#ifndef CAUSEWAY_FLOW_H
#define CAUSEWAY_FLOW_H

#include "causeway.h"

/* Bits of `state` in a leg; the lowest of it are the application's index. */
#define INDEX          0x7fffu
#define TIMED          (1u << 15) /* this side's acknowledgement of what the other sent is waited for */
#define IS_ORIGIN_LEG  (1u << 16) /* sent by the origin */
#define ESTABLISHED    (1u << 17) /* two-way */
#define FIN_SEEN       (1u << 18) /* this side has sent all it will */
#define FIN_ACKED      (1u << 19) /* and the other side has all of it */
#define RST_SEEN       (1u << 20) /* this side has reset; without CLOSED: perhaps, the other side's next packet tells */
#define CLOSED         (1u << 21) /* on both legs: nothing but retransmissions will come */
#define TOLD           (1u << 22) /* client's leg: the event that it opened is in the ring */
#define WATCH          (1u << 23) /* what this side sends decides about the other: its FIN or RST is not settled */
#define SYN_SEEN       WATCH      /* opening, origin's leg: it has answered; of TCP, with a SYN */
#define HEADER_SHIFT   24         /* 7 bits: length of the PROXY header in front of what the client sends */
#define HEADER_BYTES   0x7fu
#define HEADER_PENDING (1u << 31) /* not acknowledged (TCP) or not sent (UDP) yet */

/* What is known of one direction. Times are in ticks of 2^20 ns of the monotonic clock, and wrap. */
struct tally {
	__u64 bytes;    /* payload; of a TCP stream each byte once. Opening TCP, origin's leg: when its SYN came, in 2^14 ns */
	__u32 packets;
	__u32 seen;
	__u32 next_seq; /* TCP: what this side is expected to send next, in its own numbers */
	__u32 state;
};
SIZE(struct tally, 24);

/* Addresses and ports of a packet. */
struct ends4 {
	__be32 saddr[1], daddr[1];
	__be16 sport, dport;
};
SIZE(struct ends4, 12);

struct key4 {
	struct ends4 ends;
	__u8 protocol, unused[3]; /* zeroes */
};
SIZE(struct key4, 16);

struct leg4 {
	struct ends4 ends;
	__u32 extra; /* client's: when it was opened, in ticks; TCP: when it became two-way. Origin's: RTT of the client (high)
	                and origin (low), in 2^14 ns: the handshake's and then a running mean. Opening TCP, origin's leg before its SYN: when the client's SYN came, in 2^14 ns */
	struct tally tally;
};
SIZE(struct leg4, 40);

struct ends6 {
	__be32 saddr[4], daddr[4];
	__be16 sport, dport;
};
SIZE(struct ends6, 36);

struct key6 {
	struct ends6 ends;
	__u8 protocol, unused[3];
};
SIZE(struct key6, 40);

struct leg6 {
	struct ends6 ends;
	__u32 extra;
	struct tally tally;
};
SIZE(struct leg6, 64);

/* Which application has each port of a spot; 0 for none. Replaced as a whole. */
struct listeners {
	__u16 application[65536];
};
SIZE(struct listeners, 131072);

#define MAX_APPLICATIONS 4096
#define CHOICES 64
#define MAX_ORIGINS 16
#define MAX_SOURCES 8

enum header { NO_HEADER, PROXY_V1, PROXY_V2, PROXY_V2_EVERY, SIMPLE };

struct origin {
	__u8 is_ipv6, source_count; /* 0: the origin sees the client's own address and port */
	__u16 first_port;
	__be32 address[4]; /* IPv4 in the first */
	__be32 sources[MAX_SOURCES][4];
};
SIZE(struct origin, 148);

struct application {
	__u8 id[16];
	__u8 protocol, header;
	__u16 edge_first_port;
	__u32 origin_count;
	__u8 choices[CHOICES]; /* index of an origin, by hash of the client's address */
	struct origin origins[MAX_ORIGINS];
};
SIZE(struct application, 2456);

/* Which origin each client gets where its address decides, in place of `choices`; crates/causeway-edge/src/maglev.rs
 * makes it, and has the same number of slots. */
#define SLOTS 65521
struct balance {
	__u8 choices[65536];
};
SIZE(struct balance, 65536);

/* Of one application; in an array for each processor. */
struct totals {
	__u64 connections;
	__u64 bytes[2], packets[2]; /* from the client, from the origin */
	__u64 drops, exhausted, table_full;
};
SIZE(struct totals, 64);

/* What becomes of first packets to an application, for each processor. */
struct openings {
	__u64 opened, two_way, pressed;
};
SIZE(struct openings, 24);

/* A segment whose acknowledgement is waited for. */
struct timing {
	__u32 since; /* 2^14 ns */
	__u32 end;   /* the sequence number behind it, in its sender's numbers */
	__u32 stamp;
};
SIZE(struct timing, 12);

/* How hard it is for new flows of an application; see flow_pressure.h. */
struct pressure {
	__u32 second, opened, settled, is_on;
	__u32 strain; /* so many tries does it take to find a source port */
	__u32 unused[3];
};
SIZE(struct pressure, 32);

/* What became of packets that were not plainly carried; the index of the counter. */
enum flow_verdict {
	STRAYED,           /* to a carried port, of no flow and no first packet of one: left to the stack */
	OPENED,
	PROMOTED,          /* flows that became two-way */
	NO_ROUTE,
	TOO_BIG,           /* answered with ICMP */
	FRAGMENT_DROPPED,  /* a later fragment whose first was not seen */
	MALFORMED,         /* left to the stack, which drops it */
	UNUSUAL,           /* options or extension headers: left to the stack */
	EXPIRED,           /* time to live used up */
	OUT_OF_WINDOW,     /* forwarded, but it changes nothing */
	ERROR_TRANSLATED,  /* an ICMP error about a flow */
	EXHAUSTED,         /* no source port left */
	TABLE_FULL,
	EVENT_LOST,        /* the ring was full */
	RECLAIMED,         /* a closed flow made room */
	PRESSED,           /* a SYN, of a flood perhaps: left to the stack and its cookies */
	FLOW_VERDICTS,
};

enum flow_event { EVENT_OPENED, EVENT_CLOSED, EVENT_REPLACED, EVENT_REFUSED, EVENT_EXHAUSTED };

struct event4 {
	__u8 kind, is_ipv6;
	__u16 application;
	__u32 at; /* ticks */
	struct key4 client_key;
	struct leg4 client, origin;
};
SIZE(struct event4, 104);

struct event6 {
	__u8 kind, is_ipv6;
	__u16 application;
	__u32 at;
	struct key6 client_key;
	struct leg6 client, origin;
};
SIZE(struct event6, 176);

/* Room of the program's own, for each processor: a flow that is being opened, its origin's leg and then its client's. */
struct draft4 {
	struct key4 key, other; /* of a closed flow that is replaced */
	struct leg4 leg;
};

struct draft6 {
	struct key6 key, other;
	struct leg6 leg;
};

#endif
