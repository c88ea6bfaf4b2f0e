/* Any port of any address on one socket per worker: decides which lookups of a listener are ours (sk_lookup).
 *
 * Runs after connected sockets had their turn and before listeners bound to a port have theirs. Ports that are
 * not claimed take the kernel's usual way. Knows addresses and ports only; which application has them is found
 * by the worker.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "causeway.h"

#define AF_INET 2
#define AF_INET6 10

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* 8 KiB each: only what is used */
	__uint(max_entries, 4096);
	__type(key, struct spot);
	__type(value, struct ports);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

static __always_inline void count(__u32 verdict)
{
	__u64 *counter = bpf_map_lookup_elem(&verdicts, &verdict);

	if (counter)
		*counter += 1;
}

static __always_inline int claims(const struct spot *spot, __u32 port)
{
	struct ports *claimed = bpf_map_lookup_elem(&ports, spot);

	if (!claimed)
		return 0;
	return claimed->words[(port >> 6) & (PORT_WORDS - 1)] >> (port & 63) & 1;
}

SEC("sk_lookup")
int dispatch(struct bpf_sk_lookup *ctx)
{
	struct spot spot = {};
	struct bpf_sock *socket;
	__u32 port = ctx->local_port;
	__u32 slot;
	long error;

	if (ctx->protocol == IPPROTO_TCP)
		slot = TCP_V4;
	else if (ctx->protocol == IPPROTO_UDP)
		slot = UDP_V4;
	else
		return SK_PASS;
	spot.protocol = ctx->protocol;
	if (ctx->family == AF_INET) {
		spot.address_be[0] = ctx->local_ip4;
	} else if (ctx->family == AF_INET6) {
		spot.is_ipv6 = 1;
		spot.address_be[0] = ctx->local_ip6[0];
		spot.address_be[1] = ctx->local_ip6[1];
		spot.address_be[2] = ctx->local_ip6[2];
		spot.address_be[3] = ctx->local_ip6[3];
		slot += 1;
	} else {
		return SK_PASS;
	}

	if (!claims(&spot, port)) {
		spot.address_be[0] = 0;
		spot.address_be[1] = 0;
		spot.address_be[2] = 0;
		spot.address_be[3] = 0;
		if (!claims(&spot, port)) {
			count(PASSED);
			return SK_PASS;
		}
	}

	socket = bpf_map_lookup_elem(&sockets, &slot);
	if (!socket) {
		count(NO_SOCKET);
		return SK_PASS;
	}
	error = bpf_sk_assign(ctx, socket, 0); /* the kernel chooses a worker: SO_REUSEPORT */
	bpf_sk_release(socket);
	count(error ? FAILED : ASSIGNED);
	return error ? SK_DROP : SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
