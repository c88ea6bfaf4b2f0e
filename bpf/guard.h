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
#define MAX_TAGS 65536
#define MAX_RULES_OF_LISTENER 128
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
	__u16 sets[2];  /* slots of `sets4` and `sets6`; 0: none. The longer match decides; of equals, allow */
	__u16 rates[4]; /* 0: none */
	__u32 more;     /* zero */
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
	__u32 more;             /* zero */
};
SIZE(struct guard_settings, 64);

/* --- Prefixes. A table is an array of lines of a cache line each. It says for each address what the longest prefix of
 * it has: a trie of nodes with 2^n descriptors, and, where few are left, runs of sorted boundaries.
 *
 * Line 0: word 0 the root descriptor, word 1 the line where marks begin.
 * A descriptor: a uniform value (IS_UNIFORM | value), a node (IS_NODE | bits << 32 | first line; eight descriptors a
 * line), or a run (lines << 32 | first line). A run's first key is not above any address that leads there. */
struct line {
	__u64 words[8];
};
SIZE(struct line, 64);

#define IS_NODE    (1ull << 63)
#define IS_UNIFORM (1ull << 62)
#define MAX_NODE_BITS 20
#define MAX_DEPTH 12 /* nodes below each other: 64 bits by at least 6 */
#define MAX_RUN_STEPS 4 /* a run has at most 16 lines */

/* Of a run: what addresses from keys[i] on have. The last pair is repeated where there are fewer. */
struct run4 {
	__u32 keys[8], values[8];
};
SIZE(struct run4, 64);

/* Keys are the upper half of an address, or, behind a deeper value, the lower. */
struct run6 {
	__u64 keys[5];
	__u32 values[5], unused;
};
SIZE(struct run6, 64);

/* A value: 0 for nothing, else these. */
#define VALUE_ALLOW    (1u << 31)
#define VALUE_BLOCK    (1u << 30)
#define VALUE_MARK     (1u << 29) /* the lower bits are the index of a mark, not a tag */
#define VALUE_DEEPER   (1u << 28) /* IPv6, upper half: word 0 of that line is the descriptor for the lower half */
#define VALUE_LENGTH   20         /* 8 bits: length of the prefix */
#define VALUE_TAG      0xfffffu   /* a tag has 16 bits of them */
#define VALUE_LINE     0xfffffffu

/* An entry that ends. Four a line. */
struct mark {
	__u64 expires;
	__u32 value;     /* until then */
	__u32 otherwise; /* what holds after it: the value of the next shorter prefix, perhaps a mark again */
};
SIZE(struct mark, 16);
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
};
#define RANGES_OF_RULE 32
#define RANGE_RULES (MAX_GUARDED / RANGES_OF_RULE)

/* --- Rates: how much of something a source may send to a listener that has the rate. */
enum rate_of { RATE_SYNS, RATE_PACKETS, RATE_BYTES };

struct rate {
	__u8 of;
	__u8 length4, length6; /* a source is a prefix of that length */
	__u8 unused[5];
	__u64 interval; /* between two units, in 2^-6 ns */
	__u64 depth;    /* how far ahead of its time a source may be, in 2^-6 ns */
};
SIZE(struct rate, 24);

struct rate_source {
	__be32 address[4];
	__u16 listener, rate;
	__u32 is_ipv6;
};
SIZE(struct rate_source, 24);

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

struct guard_sample {
	__u64 at;
	__u32 interface;
	__u16 listener, tag;
	__u8 verdict, mode;
	__u8 captured;    /* bytes of `frame` */
	__u8 is_two_way;  /* of something that has gone both ways: its source is real */
	__u32 length;   /* of the whole frame */
	__u8 frame[SAMPLE_BYTES];
};
SIZE(struct guard_sample, 152);

#endif
