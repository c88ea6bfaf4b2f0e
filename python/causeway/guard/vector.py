"""What sort of packet it is, as far as an answer to many of them differs. Pure."""

from __future__ import annotations

from typing import Literal

from causeway.guard.history import Bounds, Thresholds
from causeway.guard.packet import ACK, ICMP, ICMP6, RST, SYN, TCP, UDP, Packet

Vector = Literal["syn", "syn_ack", "rst", "ack", "udp", "fragment", "icmp", "other", "broken"]
STRAYS: frozenset[Vector] = frozenset(("syn_ack", "rst", "ack"))  # TCP that has to belong to a connection

# The reflectors that are used most; with them a flood is called by its name. What they send is dropped by fixed rules.
AMPLIFIERS = frozenset((17, 19, 53, 111, 123, 137, 161, 389, 427, 1900, 3283, 3702, 5353, 5683, 10001, 11211))


def vector_of(packet: Packet) -> Vector:
    if packet.is_fragment:
        return "fragment"
    if packet.protocol == TCP and packet.flags is not None:
        if packet.flags & SYN:
            return "syn_ack" if packet.flags & ACK else "syn"
        return "rst" if packet.flags & RST else "ack"
    if packet.protocol == UDP:
        return "udp"
    return "icmp" if packet.protocol in (ICMP, ICMP6) else "other"


def bounds_of(vector: Vector, thresholds: Thresholds) -> Bounds:
    if vector == "syn":
        return thresholds.newcomers
    return thresholds.uninvited if vector == "udp" else thresholds.strays
