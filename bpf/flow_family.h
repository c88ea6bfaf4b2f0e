/* The names of one family. Files that are the same for both are included once for each, see flow.bpf.c. */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#undef F
#undef S
#undef WORDS
#undef L4
#if FAMILY == 4
#define F(name) name##4
#define S(name) struct name##4
#define WORDS 1
#define L4 (ETH_HLEN + 20)
#else
#define F(name) name##6
#define S(name) struct name##6
#define WORDS 4
#define L4 (ETH_HLEN + 40)
#endif
