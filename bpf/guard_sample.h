/* A few packets as they were, for whoever makes rules of them. A full ring loses samples, never packets. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#define SAMPLE_TICK 27

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} guard_samples SEC(".maps");

struct sampling {
	__u64 tick;
	__u32 left; /* packets until the next one is taken */
	__u32 taken;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sampling);
} samplings SEC(".maps");

__noinline int write_sample(struct xdp_md *ctx, const struct seen *p, __u32 verdict, __u32 mode, int standing)
{
	struct guard_sample *sample = bpf_ringbuf_reserve(&guard_samples, sizeof(*sample), 0);
	__u32 bytes, length;

	if (!sample)
		return 0;
	if (!p) {
		bpf_ringbuf_discard(sample, 0);
		return 0;
	}
	length = bpf_xdp_get_buff_len(ctx);
	bytes = length > SAMPLE_BYTES ? SAMPLE_BYTES : length;
	sample->at = p->now;
	sample->interface = ctx->ingress_ifindex;
	sample->listener = p->listener;
	sample->tag = p->tag;
	sample->verdict = verdict;
	sample->mode = mode;
	sample->length = length;
	sample->captured = bytes;
	sample->standing = standing;
	if (bytes < 14 || bpf_xdp_load_bytes(ctx, 0, sample->frame, bytes))
		sample->captured = 0;
	/* Nobody is woken: who reads comes by itself, every tick. */
	bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
	return 0;
}

static __always_inline int is_to_sample(const struct seen *p, const struct guard_settings *with)
{
	struct sampling *sampling;
	__u32 slot = 0;

	if (!with->sample_every)
		return 0;
	sampling = bpf_map_lookup_elem(&samplings, &slot);
	if (!sampling)
		return 0;
	if (sampling->left > 1 && sampling->left < 2 * with->sample_every) {
		sampling->left -= 1;
		return 0;
	}
	/* By chance, or a crowd whose connections are all alike would show one sort of packet alone. */
	sampling->left = 1 + bpf_get_prandom_u32() % (2 * with->sample_every - 1);
	if (sampling->tick != p->now >> SAMPLE_TICK) {
		sampling->tick = p->now >> SAMPLE_TICK;
		sampling->taken = 0;
	}
	if (sampling->taken >= with->samples_per_tick)
		return 0;
	sampling->taken += 1;
	return 1;
}
