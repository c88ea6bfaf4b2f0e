/* Floods of first packets: how many come to nothing, and how hard source ports are to find, for each application.
 *
 * A SYN that is carried costs the origin a half-open connection and us a source port, before anybody has shown to be
 * there. So where too many come to nothing, new ones are left to the stack, whose SYN cookies cost nobody anything,
 * and whoever answers those is the engine's. A few go on being carried: when clients finish those, it is over.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */

#define MOST_HALF_OPEN 8192 /* of what came within about a second */
#define SAMPLES 256         /* that are carried in each second of a flood */
#define SECOND_SHIFT 10     /* from ticks */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_APPLICATIONS);
	__type(key, __u32);
	__type(value, struct pressure);
} pressures SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_APPLICATIONS);
	__type(key, __u32);
	__type(value, struct openings);
} openings SEC(".maps");

static __always_inline struct openings *openings_of(__u32 application)
{
	return bpf_map_lookup_elem(&openings, &application);
}

static __always_inline struct pressure *pressure_of(__u32 application)
{
	return bpf_map_lookup_elem(&pressures, &application);
}

/* Is a SYN to be left to the stack? If not, it counts as one that was carried. Processors race for a second's beginning:
 * that costs a few counts. */
static __noinline int is_pressed(__u32 application)
{
	struct pressure *it = pressure_of(application);
	__u32 second = ticks() >> SECOND_SHIFT;
	__s32 unsettled;

	if (!it)
		return 0;
	unsettled = it->opened - it->settled;
	if (it->second != second) {
		if (it->is_on && unsettled * 2 <= (__s32)it->opened) {
			it->is_on = 0;
			unsettled = 0;
		}
		it->second = second;
		it->opened = it->is_on || unsettled < 0 ? 0 : (__u32)unsettled / 2;
		it->settled = 0;
	} else if (!it->is_on && unsettled > MOST_HALF_OPEN) {
		it->is_on = 1;
		it->opened = 0;
		it->settled = 0;
	}
	if (it->is_on && it->opened >= SAMPLES)
		return 1;
	__sync_fetch_and_add(&it->opened, 1);
	return 0;
}

static __always_inline void settle(__u32 application)
{
	struct pressure *it = pressure_of(application);

	if (it)
		__sync_fetch_and_add(&it->settled, 1);
}
