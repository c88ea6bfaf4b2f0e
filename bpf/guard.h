/* What the guard program and user space share: the only definition; crates/causeway-bpf/src/guard/shared.rs mirrors it.
 *
 * A listener is an index; everything that is decided about its packets hangs on that. Rule sets and prefix tables
 * are maps inside maps, replaced as a whole. Times are ns of the monotonic clock.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#ifndef CAUSEWAY_GUARD_H
#define CAUSEWAY_GUARD_H

#include "causeway.h"

#define MAX_GUARDED 4096
#define MAX_SETS 512
#define MAX_RATES 1024
#define MAX_MUTE 4096 /* interfaces */
#define MAX_TAGS 65536
#define MAX_RULES_OF_LISTENER 128
#define MAX_SESSIONS 131072 /* of a family */
#define SAMPLE_BYTES 128

enum guard_mode { GUARD_OFF, GUARD_WATCH, GUARD_PROTECT };

/* What a listener wants beyond allow, block, rules and rates; bits of `wants`. */
#define WANTS_COOKIES          (1u << 0) /* SYN is answered with a cookie; implies WANTS_STATE */
#define WANTS_STATE            (1u << 1) /* TCP of no connection that opens none is dropped */
#define WANTS_NO_FRAGMENTS     (1u << 2)
#define WANTS_WHOLE_DATAGRAMS  (1u << 3) /* a later fragment passes only if its first one has */
#define WANTS_OPEN_PORTS       (1u << 4) /* of an address: what no socket waits for is dropped in silence */
#define WANTS_KNOWN_PROTOCOLS  (1u << 5) /* of an address: only TCP, UDP, ICMP and those of the settings */

/* Of one index. */
struct guarded {
	__u8 mode, unused;
	__u16 wants;
	__u16 sets[2];  /* sets of prefixes; 0: none. The longer match decides; of equals, allow */
	__u16 rates[4]; /* 0: none */
	__u16 bans;     /* a set; whose SYNs it blocks is banned, whom it allows is not. 0: none */
	__u16 more;     /* zero */
};
SIZE(struct guarded, 20);

/* Which listener has each port of a spot; 0 for none. Replaced as a whole. */
struct guarded_ports {
	__u16 listener[65536];
};
SIZE(struct guarded_ports, 131072);

/* What holds for all packets. */
struct guard_settings {
	__u64 clock;            /* ns; 0: the kernel's. For trials that have to be repeatable */
	__u64 protocols[4];     /* bit p: IP protocol p is known */
	__u32 sample_every;     /* one in that many packets of protected and watched listeners; 0: none */
	__u32 samples_per_tick; /* at most that many in about 0.13 s (2^27 ns) on each processor */
	__u32 has_wildcards;    /* some spot is of any address */
	__u16 mss4, mss6;       /* what SYN-ACKs with a cookie say */
	__u16 window;
	__u8 window_scale;
	__u8 keeps_timestamps;  /* the stack decodes the options that a timestamp carries: net.ipv4.tcp_timestamps is 2 */
	__u32 generation;       /* another one after each change of guarded ports and addresses */
};
SIZE(struct guard_settings, 64);

/* --- Prefixes. A table is memory in lines of a cache line each. It says for each address what the longest prefix of it
 * has: a trie of nodes with 2^n entries of 8 bytes and, where few boundaries are left, lines of sorted keys.
 *
 * Tables are of four sizes, because only of a map whose size it knows does a program compute an address without a call:
 * a small one is one window of SMALL_BITS, others are 1, 16 or 64 windows of WINDOW_BITS. A set's table of a family is in
 * slot 2 * set + is_ipv6 of one of the four maps; if a swap leaves it in two for a moment, either answer is right.
 *
 * Line 0 is the head; lines 1 to 16 are the palette, 256 values. A key is an IPv4 address or the upper half of an IPv6
 * one; `rest` bits of it are not looked at yet. */
struct line {
	__u32 words[16];
};
SIZE(struct line, 64);

#define SMALL_BITS 16
#define WINDOW_BITS 21
#define LARGE_WINDOWS 16

/* Most entries of a set often share their first bits: below these is one trie, in the rest of all addresses another. */
struct table_head {
	__u64 base;     /* (key ^ base) >> shift >> 1 is 0: inside */
	__u32 shift;    /* `rest` of inside, less one */
	__u32 inside, outside; /* descriptors */
	__u32 unused[11];
};
SIZE(struct table_head, 64);

/* A descriptor: what the upper four bits say. A value (0, or one of the VALUE_ bits) is one too. */
#define KIND(d) ((d) >> 28)
#define KIND_NODE 3u      /* bits << 23 | first line: 2^bits entries, 8 a line */
#define KIND_LINE16 5u    /* a line: 20 keys of 15 bits, of each the upper bit set, then 21 bytes: what holds below the */
#define KIND_LINE32 6u    /* first key, from the first key on, ..., as indices of the palette. 12 keys of 31 bits, 13 bytes. */
#define KIND_LINE64 7u    /* 7 whole keys, 8 bytes. Where there are fewer keys, the last possible one is repeated. */
#define KIND_WIDE 8u      /* together with one of these: values instead of bytes, 4 bytes each; 8, 6, 5 keys */
#define NODE_LINE 0x7fffffu
/* An entry of a node: descriptor << 32 | begins. The addresses of an entry are in 32 parts; if its descriptor is that of a
 * line, and bit i of `begins` is set, another line begins with part i, behind the one before it. */
#define PART_BITS 5
#define MAX_NODE_BITS 20
#define MAX_DEPTH4 6 /* nodes below each other: 32 bits by at least 6 */
#define MAX_DEPTH6 11

/* A value: 0 for nothing, else these. */
#define VALUE_ALLOW    (1u << 31)
#define VALUE_BLOCK    (1u << 30)
#define VALUE_MARK     (1u << 29) /* the lower bits are the index of a record, not a tag */
#define VALUE_DEEPER   (1u << 28) /* IPv6, upper half: word 0 of that line is the descriptor for the lower half */
#define VALUE_HOST     (1u << 27) /* with VALUE_DEEPER: a record, instead */
#define VALUE_LENGTH   20         /* 8 bits: length of the prefix */
#define VALUE_TAG      0xfffffu   /* a tag has 16 bits of them */
#define VALUE_RECORD   0x7ffffffu /* of a record, or a line */

/* An entry that ends, or the only host of an upper half. Four a line; the index counts from the beginning of the table. */
struct record {
	__u64 key;       /* until when, or the lower half */
	__u32 value;     /* until then, or of this host */
	__u32 otherwise; /* after it, or of all others: of the next shorter prefix, perhaps a mark again */
};
SIZE(struct record, 16);
#define MAX_MARKS_BELOW 8 /* of entries that end within each other, more are not asked */

/* --- Rules. A rule set is an array of rules. The first RANGE_RULES of them are instead struct rule_range for each
 * listener: which of the others are its own, in order. */
enum rule_action { RULE_DROP, RULE_PASS, RULE_WATCH };

#define TESTS_SOURCE      (1u << 0)
#define TESTS_DESTINATION (1u << 1)
#define TESTS_FINGERPRINT (1u << 2) /* TCP, SYN: order of options */
#define TESTS_MSS         (1u << 3) /* SYN */
#define TESTS_PAYLOAD     (1u << 4)
#define TESTS_ID_ZERO     (1u << 5) /* IPv4 identification */
#define TESTS_FRAGMENT    (1u << 6) /* is a fragment, the first or a later one */
#define TESTS_OPTIONS     (TESTS_FINGERPRINT | TESTS_MSS)

struct rule {
	__u64 expires;           /* 0: never */
	__u16 tag;
	__u8 action, family;     /* 0, 4 or 6 */
	__u16 tests;             /* bits; the ranges below are always tested */
	__u8 protocol;           /* 0: any */
	__u8 flags_mask;         /* TCP: flags & mask == flags; 0: any packet */
	__u8 flags, payload_bytes;
	__u8 hops[2];            /* ranges: both ends included */
	__u16 length[2];         /* of the packet from the IP header on */
	__u16 sport[2], dport[2]; /* any of 0 to 65535 fits packets without ports too */
	__u16 window[2];         /* TCP; 0 to 65535 fits all */
	__u16 mss[2];            /* 0: none was there */
	__u16 payload_at;        /* from the end of the TCP or UDP header on */
	__u16 unused;
	__u32 fingerprint;
	__be32 source[4], source_mask[4];
	__be32 destination[4], destination_mask[4];
	__u8 payload[16], payload_mask[16];
};
SIZE(struct rule, 144);

struct rule_range {
	__u16 first, count; /* first: from RANGE_RULES on */
	__u16 sport[2];     /* of what any of them may fit */
};
#define RANGES_OF_RULE 16
#define RANGE_RULES (MAX_GUARDED / RANGES_OF_RULE)

/* --- Rates: how much of something a source may send to a listener that has the rate. */
enum rate_of { RATE_SYNS, RATE_PACKETS, RATE_BYTES };

struct rate {
	__u8 of;
	__u8 length4, length6; /* a source is a prefix of that length */
	__u8 spares_returning; /* of all together: who comes back has as much again, see below */
	__u8 unused[4];
	__u64 interval; /* between two units, in 2^-6 ns */
	__u64 depth;    /* how far ahead of its time a source may be, in 2^-6 ns */
};
SIZE(struct rate, 24);

struct rate_source {
	__be32 address[4];
	__u16 listener, rate;
	__u8 is_ipv6, is_returning, unused[2];
};
SIZE(struct rate_source, 24);

/* Who comes back: a client that hears nothing says it again, from the same address and port, within seconds; who makes
 * addresses up does not. Remembered are those that came when there was nothing left, in a filter (Bloom, CACM 13, 1970) of
 * two turns, of which each has half of every line. */
#define TURN_SHIFT 30      /* ns: 1.07 s */
#define RETURN_WORDS 7     /* one bit in each */
#define RETURN_LINES 65536 /* a power of two; 4 MiB stay in the cache */

struct return_half {
	__u32 turn; /* its bits are of this one */
	__u32 bits[RETURN_WORDS];
};

struct return_line {
	struct return_half halves[2]; /* of even turns, of odd ones */
};
SIZE(struct return_line, 64);

/* --- A two-way session of the engine, by the ends that its client's datagrams have. */
struct session {
	__u64 teller; /* whose it is; what nobody has any more is swept by that */
};
SIZE(struct session, 8);

/* --- What became of packets. The index of its counter. */
enum guard_verdict {
	GUARD_PASSED,        /* nothing speaks against it */
	GUARD_ESTABLISHED,   /* of a connection or flow that is open */
	GUARD_ALLOWED,       /* by prefix */
	GUARD_RULE_PASSED,
	GUARD_COOKIE_SENT,   /* SYN answered */
	GUARD_COOKIE_TAKEN,  /* ACK of such an answer */
	GUARD_PRIMED,        /* a SYN now and then that lets the listener know that cookies are about */
	GUARD_BLOCKED,       /* by prefix; this and all that follow are drops */
	GUARD_RULE_DROPPED,
	GUARD_RATE,
	GUARD_COOKIE_FAILED, /* no answer could be made */
	GUARD_OUT_OF_STATE,
	GUARD_MALFORMED,
	GUARD_ILLEGAL,       /* TCP flags or ports that nobody sends */
	GUARD_FRAGMENT,
	GUARD_PORT,
	GUARD_PROTOCOL,
	GUARD_BANNED,        /* a SYN of a source that attacks by connections */
	GUARD_VERDICTS,
};
#define FIRST_DROP GUARD_BLOCKED

/* Of a listener, for each processor. Watched: what would have become of packets while it was only watched. */
struct guard_counts {
	__u64 packets[GUARD_VERDICTS], bytes[GUARD_VERDICTS], watched[GUARD_VERDICTS];
};
SIZE(struct guard_counts, 24 * GUARD_VERDICTS);

/* Of a tag, for each processor. */
struct guard_hits {
	__u64 packets;
	__u64 established; /* of them: packets of open connections, which no rule drops */
};
SIZE(struct guard_hits, 16);

/* What a sampled packet is of: nothing, something that was asked for by whoever that is, something that has gone both
 * ways, so that its source is who it says. */
#define NOBODY 0
#define OPEN 1
#define TWO_WAY 2

struct guard_sample {
	__u64 at;
	__u32 interface;
	__u16 listener, tag;
	__u8 verdict, mode;
	__u8 captured;    /* bytes of `frame` */
	__u8 standing;    /* NOBODY, OPEN, TWO_WAY */
	__u32 length;   /* of the whole frame */
	__u8 frame[SAMPLE_BYTES];
};
SIZE(struct guard_sample, 152);

#endif
