"""Carpet bombing: little to each of many addresses, so that none of them has too much. Pure."""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from causeway.guard.attacks import is_carpet
from causeway.guard.vector import Vector
from causeway.guard.watched import Watched

_APPLICATIONS = 4  # fewer have enough each to be seen by themselves
_NETWORK = {False: 24, True: 48}


@dataclass(frozen=True, slots=True)
class Carpet:
    """`per_s`: uninvited packets to the network together; `applications`: those that get any, each with what sort."""

    network: str
    per_s: float
    addresses: int
    applications: dict[str, frozenset[Vector]]


def carpets(watched: Iterable[Watched], most_per_s: float) -> list[Carpet]:
    """Networks that get more than `most_per_s` together, without one address that gets most of it."""
    destinations: defaultdict[tuple[bool, int], Counter[int]] = defaultdict(Counter)
    hit: defaultdict[tuple[bool, int], defaultdict[str, set[Vector]]] = defaultdict(lambda: defaultdict(set))
    total, samples = 0.0, 0
    for one in watched:
        total += one.uninvited
        for seen in one.last_second():
            packet = seen.packet
            bits = 128 if packet.is_ipv6 else 32
            network = packet.is_ipv6, packet.destination >> (bits - _NETWORK[packet.is_ipv6])
            destinations[network][packet.destination] += 1
            hit[network][one.application].add(seen.vector)
            samples += 1
    if total <= most_per_s:
        return []
    found = []
    for network, addresses in destinations.items():
        per_s = total * addresses.total() / samples
        if per_s > most_per_s and is_carpet(addresses) and len(hit[network]) >= _APPLICATIONS:
            applications = {name: frozenset(vectors) for name, vectors in hit[network].items()}
            found.append(Carpet(_text(*network), per_s, len(addresses), applications))
    return found


def _text(is_ipv6: bool, network: int) -> str:
    length = _NETWORK[is_ipv6]
    first = network << ((128 if is_ipv6 else 32) - length)
    return f"{ipaddress.IPv6Address(first) if is_ipv6 else ipaddress.IPv4Address(first)}/{length}"
