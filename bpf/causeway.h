/* What kernel programs and user space share: the only definition; crates/causeway-bpf mirrors and checks it.
 *
 * Numbers are in host byte order unless a name says otherwise. Every struct has its size asserted.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#ifndef CAUSEWAY_H
#define CAUSEWAY_H

#include <linux/types.h>

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has another size in user space")

/* A step of a hash, where nobody gains by collisions. */
static inline __attribute__((always_inline)) __u32 mix(__u32 hash, __u32 more)
{
	hash = (hash ^ more) * 0x9e3779b1;
	return hash ^ hash >> 15;
}

/* Where ports are claimed: one protocol on one address of this machine, or, all zeroes, on any of the family. */
struct spot {
	__u8 protocol;     /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 is_ipv6;
	__u16 unused;      /* zero: it is part of the key */
	__u32 address_be[4]; /* IPv4 in the first */
};
SIZE(struct spot, 20);

#define PORT_WORDS 1024

/* The claimed ports of a spot, port p is bit p % 64 of word p / 64. Replaced as a whole. */
struct ports {
	__u64 words[PORT_WORDS];
};
SIZE(struct ports, 8192);

/* Which socket gets a flow: a member of the SO_REUSEPORT group of the workers. */
enum slot { TCP_V4, TCP_V6, UDP_V4, UDP_V6, SLOTS };

/* What became of a lookup; the index of its counter. */
enum verdict {
	PASSED,    /* not claimed: the kernel looks further, and answers as for any closed port if nobody is there */
	ASSIGNED,  /* given to the workers */
	NO_SOCKET, /* claimed, but nobody listens for this protocol and family (any more): as PASSED */
	FAILED,    /* claimed, but the kernel refused the socket: answered like a closed port */
	VERDICTS,
};

#endif
