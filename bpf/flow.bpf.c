/* Plain flows never leave the kernel: addresses and ports are translated where packets come in (tc ingress).
 *
 * A packet of a flow, found by its addresses and ports, is given those of the flow's other side and leaves by the
 * route to there. A first packet to a carried port opens a flow. Everything else, and whatever is not understood,
 * goes on to the stack as if this were not here: the engine listens on the same ports.
 */
/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
#include "flow_base.h"
#include "flow_tcp.h"
#include "flow_text.h"
#include "flow_pressure.h"

#define FAMILY 4
#include "flow_family.h"
#include "flow_table.h"
#include "flow_way.h"
#include "flow_read.h"
#include "flow_header.h"
#include "flow_open.h"
#include "flow_turn.h"
#include "flow_icmp.h"
#include "flow_fragment.h"
#include "flow_time.h"
#include "flow_carry.h"

#undef FAMILY
#define FAMILY 6
#include "flow_family.h"
#include "flow_table.h"
#include "flow_way.h"
#include "flow_read.h"
#include "flow_header.h"
#include "flow_open.h"
#include "flow_turn.h"
#include "flow_icmp.h"
#include "flow_fragment.h"
#include "flow_time.h"
#include "flow_carry.h"

SEC("classifier")
int flow(struct __sk_buff *skb)
{
	/* Still tagged, it comes again by its VLAN's device; to others, it is none of our business. */
	if (skb->vlan_present || skb->pkt_type)
		return PASS;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return any4(skb);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return any6(skb);
	return PASS;
}

char LICENSE[] SEC("license") = "GPL";
