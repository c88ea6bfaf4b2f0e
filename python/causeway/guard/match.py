"""Whether a packet fits a rule, as the kernel's program decides it: so that a rule is tried before it is made."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from causeway.guard.packet import Packet
from causeway.model.mitigation import Match, Range

Fits = Callable[[Packet], bool]


def compiled(match: Match) -> Fits:
    """A question for many packets. All that the match says has to hold; what it does not say fits all."""
    asked: list[Fits] = []
    if match.protocol is not None:
        asked.append(lambda packet: packet.protocol == match.protocol)
    if match.is_ipv6 is not None:
        asked.append(lambda packet: packet.is_ipv6 == match.is_ipv6)
    if match.source is not None:
        is_inside = _inside(match.source)
        asked.append(lambda packet: is_inside(packet.is_ipv6, packet.source))
    if match.destination is not None:
        is_there = _inside(match.destination)
        asked.append(lambda packet: is_there(packet.is_ipv6, packet.destination))
    if match.flags is not None:
        mask, value = match.flags
        asked.append(lambda packet: packet.flags is not None and packet.flags & mask == value)
    for name, span, value_if_none in (
        ("source_port", match.source_ports, 0),
        ("destination_port", match.destination_ports, 0),
        ("length", match.length, 0),
        ("hops", match.hops, 0),
        ("window", match.window, 0),
        ("mss", match.mss, None),
    ):
        if span is not None:
            asked.append(_within(name, span, value_if_none))
    if match.fingerprint is not None:
        asked.append(lambda packet: packet.options == match.fingerprint)
    if match.has_zero_id:
        asked.append(lambda packet: packet.has_zero_id)
    if match.is_fragment:
        asked.append(lambda packet: packet.is_fragment)
    if match.payload is not None:
        at, wanted, mask_bytes = match.payload.at, bytes.fromhex(match.payload.bytes), bytes.fromhex(match.payload.mask)
        asked.append(lambda packet: _has(packet.payload[at:], wanted, mask_bytes))
    return lambda packet: all(ask(packet) for ask in asked)


def _within(name: str, span: Range, value_if_none: int | None) -> Fits:
    first, last = span

    def ask(packet: Packet) -> bool:
        value = getattr(packet, name)
        value = value_if_none if value is None else value
        return value is not None and first <= value <= last

    return ask


def _inside(prefix: str) -> Callable[[bool, int], bool]:
    network = ipaddress.ip_network(prefix)
    is_ipv6, first, last = network.version == 6, int(network.network_address), int(network.broadcast_address)
    return lambda of_ipv6, address: of_ipv6 == is_ipv6 and first <= address <= last


def _has(payload: bytes, wanted: bytes, mask: bytes) -> bool:
    if len(payload) < len(wanted):
        return False
    return all(byte & bits == want & bits for byte, want, bits in zip(payload, wanted, mask, strict=False))
