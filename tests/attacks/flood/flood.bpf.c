// SPDX-License-Identifier: Apache-2.0
// Makes a flood out of one frame: run on "live frames" (BPF_PROG_TEST_RUN, Documentation/bpf/bpf_prog_run.rst), it writes
// what differs from packet to packet, and sends by an interface. Nothing is allocated for a packet: a core makes millions.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define HEADERS 16

/// Mirrored by src/job.rs. Offsets are from the beginning of the frame; 0: not there. Numbers are in the host's order.
struct job {
    __u32 interface;
    __u32 sources_first, sources_count; // IPv4
    __u16 from_first, from_count;       // ports
    __u16 to_first, to_count;
    __u16 transport;   // where the transport header begins
    __u16 checksum;    // where its checksum is
    __u32 ip_sum;      // of the template, with nothing in what varies
    __u32 transport_sum;
    __u16 vary_seq, vary_ack, vary_flags, unused;
    __u64 begins[HEADERS]; // the template: whoever had the frame before may have written in it
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct job);
} jobs SEC(".maps");

/// How fast. An even stream cannot be made of short runs: the kernel pauses for some 20 ms before each.
struct pace {
    __u64 packet_ps; // between one and the next; 0: none
    __u64 due;       // ns, when the next one is
    __u64 part_ps;   // of a ns
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct pace);
} paces SEC(".maps");

#define BURST_NS 16000     // the clock is not asked for each packet: they may come so early
#define STALLED_NS 100000  // what was due before that is not sent at once: a queue of 256 has to hold what is
#define MOST_LOOKS 1000000

static long is_early(__u32 look, __u64 *until)
{
    return bpf_ktime_get_ns() >= *until;
}

static __always_inline void wait_for(struct pace *pace)
{
    __u64 now = bpf_ktime_get_ns(), due = pace->due;

    if (due + STALLED_NS < now)
        pace->due = due = now;
    if (due > now + BURST_NS)
        bpf_loop(MOST_LOOKS, is_early, &due, 0);
    pace->part_ps += pace->packet_ps;
    pace->due += pace->part_ps / 1000;
    pace->part_ps %= 1000;
}

#define IP_ID 18
#define IP_SUM 24
#define IP_SOURCE 26

static __always_inline __u16 folded(__u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/// Write two or four bytes; answers what they add to a checksum.
static __always_inline __u32 put16(void *frame, void *end, __u32 at, __u16 value)
{
    __be16 *place = frame + (at & 0x7ff);
    if ((void *)(place + 1) <= end)
        *place = bpf_htons(value);
    return value;
}

static __always_inline __u32 put32(void *frame, void *end, __u32 at, __u32 value)
{
    __be32 *place = frame + (at & 0x7ff);
    if ((void *)(place + 1) <= end)
        *place = bpf_htonl(value);
    return (value & 0xffff) + (value >> 16);
}

SEC("xdp")
int flood(struct xdp_md *context)
{
    /* The kernel takes a frame up again as it is, also one that was sent back shorter (XDP_TX): only a context that has
     * changed has its length written anew. */
    bpf_xdp_adjust_meta(context, -8);
    void *frame = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    __u32 zero = 0;
    struct job *job = bpf_map_lookup_elem(&jobs, &zero);
    struct pace *pace = bpf_map_lookup_elem(&paces, &zero);
    if (!job || !pace || frame + IP_SOURCE + 4 > end)
        return XDP_DROP;
    if (pace->packet_ps)
        wait_for(pace);
    for (int i = 0; i < HEADERS; i++) {
        __u64 *word = frame + i * 8;
        if ((void *)(word + 1) > end)
            break;
        *word = job->begins[i];
    }
    __u32 dice = bpf_get_prandom_u32(), more = bpf_get_prandom_u32();
    __u32 source = job->sources_first + dice % (job->sources_count ?: 1);
    __u32 id = more & 0xffff, ip_sum = job->ip_sum + id, sum = job->transport_sum;
    put16(frame, end, IP_ID, id);
    __u32 of_source = put32(frame, end, IP_SOURCE, source);
    put16(frame, end, IP_SUM, folded(ip_sum + of_source));
    if (job->transport) {
        __u32 at = job->transport;
        sum += of_source;
        sum += put16(frame, end, at, job->from_first + (more >> 16) % (job->from_count ?: 1));
        sum += put16(frame, end, at + 2, job->to_first + (dice >> 8) % (job->to_count ?: 1));
        if (job->vary_seq)
            sum += put32(frame, end, at + 4, bpf_get_prandom_u32());
        if (job->vary_ack)
            sum += put32(frame, end, at + 8, bpf_get_prandom_u32());
        if (job->vary_flags)
            sum += put16(frame, end, at + 12, 0x5000 | (bpf_get_prandom_u32() & 0x3f));
        if (job->checksum)
            put16(frame, end, job->checksum, folded(sum));
    }
    return bpf_redirect(job->interface, 0);
}

/// What a flood meets when its own rate is measured.
SEC("xdp")
int sink(struct xdp_md *context)
{
    return XDP_DROP;
}

#define NOBODY 0xc6128000 // 198.18.128.0/17, where floods say to come from

/// What makes a veth one that takes frames from its peer's XDP_TX. What is sent to sources that do not exist goes
/// elsewhere in the world, and not to the client: it may not fill the client's queue.
SEC("xdp")
int pass(struct xdp_md *context)
{
    void *frame = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = frame;
    __be32 *to = frame + IP_SOURCE + 4;

    if ((void *)(to + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
        return XDP_PASS;
    return (*to & bpf_htonl(0xffff8000)) == bpf_htonl(NOBODY) ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
