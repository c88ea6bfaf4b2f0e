"""An attack while it goes on, and what people are told of it. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from causeway.guard.hitters import Hitters
from causeway.guard.packet import Packet
from causeway.guard.reservoir import bound
from causeway.guard.rules import Living
from causeway.guard.vector import AMPLIFIERS, STRAYS, Vector
from causeway.model.mitigation import Attack, Rule

MOST_EVIDENCE = 3
_FEW = 64  # addresses that a botnet of machines which answer may have
_MOSTLY = 0.8
CARPET_ADDRESSES = 16  # from so many on, without a favourite, it is the network that is attacked
_NAMES: dict[Vector, str] = {
    "syn": "TCP SYN",
    "syn_ack": "TCP SYN-ACK that nobody asked for",
    "rst": "TCP RST of no connection",
    "ack": "TCP of no connection",
    "udp": "UDP",
    "fragment": "fragments",
    "icmp": "ICMP",
    "other": "other protocols",
    "broken": "packets that no stack sends",
}


Sort = Vector | Literal["carpet"]


@dataclass(frozen=True, slots=True)
class Looks:
    """What a sample of an attack looks like."""

    kind: str
    sentence: str
    is_of_few: bool  # addresses


def looks_of(vector: Vector, packets: Sequence[Packet], is_unfinished: bool) -> Looks:
    """Name an attack by a sample of its packets."""
    sources: Hitters[tuple[bool, int]] = Hitters(4 * _FEW)
    networks: Counter[tuple[bool, int]] = Counter()
    destinations: Counter[int] = Counter()
    ports: Counter[int | None] = Counter()
    for packet in packets:
        sources.add((packet.is_ipv6, packet.source))
        networks[packet.is_ipv6, packet.source_prefix(48 if packet.is_ipv6 else 24)] += 1
        destinations[packet.destination] += 1
        ports[packet.source_port] += 1
    total = max(1, len(packets))
    is_of_few = sources.share_of(_FEW) >= _MOSTLY
    port, at_port = ports.most_common(1)[0] if ports else (None, 0)
    said = [_NAMES[vector]]
    if port is not None and at_port >= _MOSTLY * total:
        said.append(f"from port {port}")
    said.append(_origin(networks, len(sources), total, is_of_few))
    if len(destinations) > 1:
        said.append(f"to {len(destinations)} addresses")
    amplified = sum(count for number, count in ports.items() if number in AMPLIFIERS)
    if is_carpet(destinations):
        kind = "carpet"
    elif vector == "syn":
        kind = "connections" if not is_unfinished else "syn" if is_of_few else "spoofed_syn"
    elif vector == "udp":
        kind = "amplification" if amplified > total / 2 else "udp"
    else:
        kind = "ack" if vector in STRAYS and vector != "rst" else _PLAIN[vector]
    return Looks(kind, ", ".join(said), is_of_few)


_PLAIN: dict[Vector, str] = {
    "rst": "rst",
    "fragment": "fragments",
    "icmp": "icmp",
    "other": "protocol",
    "broken": "malformed",
}


def is_carpet(destinations: Counter[int]) -> bool:
    return len(destinations) >= CARPET_ADDRESSES and max(destinations.values()) < destinations.total() / 2


def _origin(networks: Counter[tuple[bool, int]], addresses: int, total: int, is_of_few: bool) -> str:
    if not networks:
        return "unsampled"
    (is_ipv6, network), most = networks.most_common(1)[0]
    if most >= _MOSTLY * total:
        where = ipaddress.IPv6Address(network << 80) if is_ipv6 else ipaddress.IPv4Address(network << 8)
        return f"from {where}/{48 if is_ipv6 else 24}"
    return f"from {addresses} addresses" if is_of_few else "from many addresses"


@dataclass(slots=True)
class Ongoing:
    """Times are Unix ms."""

    application: str
    vector: Sort
    started_ms: int  # the last moment at which nothing was wrong
    detected_ms: int
    id: str = ""
    last_ms: int = 0
    mitigated_ms: int | None = None
    looks: Looks = field(default_factory=lambda: Looks("", "", False))
    fingerprint: str = ""  # what its packets have in common
    next_search_ms: int = 0  # for that; monotonic
    peak_per_s: float = 0.0
    dropped: float = 0.0
    passed: float = 0.0
    good_samples: int = 0
    evidence: list[str] = field(default_factory=list)
    rules: dict[str, Rule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = f"{self.application} {self.vector} {self.started_ms}".encode()
        self.id = hashlib.blake2b(name, digest_size=16).hexdigest()
        self.last_ms = self.detected_ms

    def see(self, rate: float, kept_out: float, over_s: float, now_ms: int) -> None:
        """Note what came within a look, and how much of it was kept out (0 to 1)."""
        self.last_ms = now_ms
        self.peak_per_s = max(self.peak_per_s, rate)
        self.dropped += rate * over_s * kept_out
        self.passed += rate * over_s * (1 - kept_out)
        if kept_out > 0.5 and self.mitigated_ms is None:
            self.mitigated_ms = now_ms

    def note(self, living: list[Living]) -> None:
        for one in living:
            if not one.is_trial:
                self.rules[one.rule.id] = one.rule
                self.good_samples = one.good_samples

    def told(self, is_over: bool) -> Attack:
        return Attack(
            id=self.id,
            application=self.application,
            kind=self.looks.kind,
            vector=self.fingerprint or self.looks.sentence,
            started_unix_ms=self.started_ms,
            ended_unix_ms=self.last_ms if is_over else None,
            detected_after_ms=self.detected_ms - self.started_ms,
            mitigated_after_ms=None if self.mitigated_ms is None else self.mitigated_ms - self.started_ms,
            peak_packets_per_s=round(self.peak_per_s),
            packets_dropped=round(self.dropped),
            packets_passed=round(self.passed),
            rules=list(self.rules.values()),
            evidence=list(self.evidence),
            false_positive_bound=bound(self.good_samples),
            good_samples=self.good_samples,
        )
