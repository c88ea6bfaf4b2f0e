"""Good packets, so that a rule can be tried on them before it drops anything.

Good is what belongs to a flow that is two-way, and what opened such a flow: a rule can only hurt who is about to open
one, for packets of open flows are never dropped by rules. An opener is good once its sender is seen in a two-way flow.
Who forges the address of such a sender spoils nothing but rules: one that would have fitted is not made.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from causeway.guard.packet import TCP, UDP, Packet

Kind = Literal["syn", "tcp", "udp", "other"]
MOST = 30_000
_MOST_WAITING = 4_096  # openers whose flow may yet become two-way
_SLOWEST = 10  # a full reservoir still takes one packet in so many, or it would never be of today
ENOUGH = 3_000  # below this nothing is dropped by a rule


def kind_of(packet: Packet) -> Kind:
    if packet.protocol == TCP:
        return "syn" if packet.is_syn else "tcp"
    return "udp" if packet.protocol == UDP else "other"


def bound(samples: int) -> float | None:
    """The rule of three: with none of n good packets fitting, at most this share of them does, with 95 % confidence."""
    return min(1.0, 3.0 / samples) if samples else None


_Peer = tuple[int, int, int]


def _peer(packet: Packet) -> _Peer:
    """The sender. Whoever forges an address seldom knows how many hops it is away."""
    return (packet.source, packet.hops, packet.protocol)


class Reservoir:
    """Of one application: an even choice of its good packets, at most `most` in all."""

    def __init__(self, most: int = MOST, seed: int = 0) -> None:
        self._most = most
        self._random = random.Random(seed)  # noqa: S311  # the same packets make the same choice
        self._kept: dict[Kind, list[Packet]] = {"syn": [], "tcp": [], "udp": [], "other": []}
        self._seen: dict[Kind, int] = {"syn": 0, "tcp": 0, "udp": 0, "other": 0}
        self._waiting: dict[_Peer, Packet] = {}
        self._two_way: dict[_Peer, None] = {}

    def add(self, packet: Packet, is_established: bool) -> list[Packet]:
        """Look at a sampled packet; keep it if it is good, or wait for it to be. Answers what is good now."""
        peer = _peer(packet)
        if not is_established:
            if not packet.is_syn and packet.protocol != UDP:
                return []
            if peer in self._two_way:
                self._keep(packet)
                return [packet]
            self._waiting.setdefault(peer, packet)
            _shrink(self._waiting)
            return []
        self._two_way.pop(peer, None)
        self._two_way[peer] = None
        _shrink(self._two_way)
        self._keep(packet)
        opener = self._waiting.pop(peer, None)
        if opener is None:
            return [packet]
        self._keep(opener)
        return [packet, opener]

    def of(self, kind: Kind) -> list[Packet]:
        return self._kept[kind]

    def __iter__(self) -> Iterator[Packet]:
        for packets in self._kept.values():
            yield from packets

    def __len__(self) -> int:
        return sum(len(packets) for packets in self._kept.values())

    def shrink(self, most: int) -> None:
        """Keep at most so many from now on."""
        self._most = most
        for packets in self._kept.values():
            del packets[most // len(self._kept) :]

    def _keep(self, packet: Packet) -> None:
        kind = kind_of(packet)
        packets = self._kept[kind]
        self._seen[kind] += 1
        room = self._most // 4 if len(self) >= self._most else self._most  # a kind that comes late finds room too
        if len(packets) < room:
            if len(self) >= self._most:
                largest = max(self._kept.values(), key=len)
                del largest[self._random.randrange(len(largest))]
            packets.append(packet)
            return
        at = self._random.randrange(min(self._seen[kind], len(packets) * _SLOWEST))
        if at < len(packets):
            packets[at] = packet


def _shrink(kept: dict[_Peer, Packet] | dict[_Peer, None]) -> None:
    if len(kept) > _MOST_WAITING:
        kept.pop(next(iter(kept)))
