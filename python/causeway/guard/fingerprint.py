"""What the packets of an attack have in common, and good ones have not.

Pure. An attribute counts if at least 80 % of the attack have it, 10 times as often as good packets, and more than 5
times with 95 % confidence. Of those all pairs and triples are scored in one pass; the protocol is always asked too.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from causeway.guard.match import compiled
from causeway.guard.packet import PAYLOAD_BYTES, UDP, Packet
from causeway.guard.reservoir import ENOUGH, Reservoir, bound, kind_of
from causeway.model.mitigation import Match, Payload

LEAST_SHARE, LEAST_LIFT, LEAST_SURE_LIFT = 0.80, 10.0, 5.0
LEAST_SAMPLES = 50  # of an attack, before anything is said of it
MOST_SAMPLES = 2_000  # that are looked at; the newest
_MOST_COMPARED = 4_000  # good packets, to choose by; all are tried on what was chosen
_PENALTY = 100  # a good packet weighs as many of the attack
_MOST_ATTRIBUTES = 12
_WIDE = 256  # more sources than this are no property of the attack
_Z95 = 1.96
_PREFIXES = {False: (32, 24, 20, 16), True: (64, 56, 48, 32)}
_BUCKET_BYTES = 64
_HOPS = (0, 33, 65, 129, 256)

Value = int | bytes | tuple[int, ...]
Attribute = tuple[str, Value]


@dataclass(frozen=True, slots=True)
class Finding:
    """`bound`: the share of good packets like these that it fits at most, as `good_samples` of them show."""

    match: Match
    share: float  # of the attack
    good_samples: int
    good_matched: int

    @property
    def bound(self) -> float | None:
        return bound(self.good_samples) if not self.good_matched else None

    @property
    def may_drop(self) -> bool:
        return self.good_matched == 0 and self.good_samples >= ENOUGH


def attributes(packet: Packet, with_source: bool = True) -> list[Attribute]:
    """All that may be a property of an attack."""
    bucket = packet.length // _BUCKET_BYTES * _BUCKET_BYTES
    found: list[Attribute] = [
        ("destination", (int(packet.is_ipv6), packet.destination)),
        ("hops", packet.hops),
        ("length", packet.length),
        ("lengths", bucket),
        ("many_hops", next(at for at, last in enumerate(_HOPS[1:]) if packet.hops < last)),
    ]
    if with_source:
        v6 = packet.is_ipv6
        found += [("source", (int(v6), length, packet.source_prefix(length))) for length in _PREFIXES[v6]]
    if packet.has_zero_id:
        found.append(("zero_id", 1))
    if packet.is_fragment:
        found.append(("fragment", 1))
    if packet.source_port is not None and packet.destination_port is not None:
        found += [("source_port", packet.source_port), ("destination_port", packet.destination_port)]
    if packet.flags is not None and packet.window is not None:
        found += [("flags", packet.flags), ("window", packet.window)]
    if packet.mss is not None and packet.options is not None:
        found += [("mss", packet.mss), ("options", packet.options)]
    return found


def find(attack: Sequence[Packet], good: Reservoir) -> Finding | None:
    """The pair or triple that fits most of the attack and least of what is good.

    All packets of `attack` are of one kind. None: they have nothing of their own in common.
    """
    attack = attack[-MOST_SAMPLES:]
    if len(attack) < LEAST_SAMPLES:
        return None
    every = good.of(kind_of(attack[0]))
    alike = every[:_MOST_COMPARED]
    patterned = _Pattern.of(attack)
    with_source = len({packet.source for packet in attack}) <= _WIDE
    theirs = [frozenset(_all(packet, patterned, with_source)) for packet in attack]
    kept = _kept(theirs, alike, patterned)
    if not kept:
        return None
    chosen = _best(theirs, (frozenset(_all(packet, patterned, True)) for packet in alike), kept)
    match = _match(attack[0], chosen, patterned)
    fits = compiled(match)
    matched = sum(fits(packet) for packet in attack)
    return Finding(match, matched / len(attack), len(every), sum(fits(packet) for packet in good))


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Bytes at the start of payloads that hardly change."""

    value: bytes
    mask: bytes

    @staticmethod
    def of(attack: Sequence[Packet]) -> _Pattern | None:
        value, mask = bytearray(), bytearray()
        for at in range(PAYLOAD_BYTES):
            there = Counter(packet.payload[at] for packet in attack if len(packet.payload) > at)
            byte, count = there.most_common(1)[0] if there else (0, 0)
            is_constant = count >= 0.95 * len(attack)
            value.append(byte if is_constant else 0)
            mask.append(255 if is_constant else 0)
        last = max((at for at in range(PAYLOAD_BYTES) if mask[at]), default=-1) + 1
        return _Pattern(bytes(value[:last]), bytes(mask[:last])) if last else None

    def fits(self, payload: bytes) -> bool:
        return len(payload) >= len(self.value) and all(
            byte & bits == want for byte, want, bits in zip(payload, self.value, self.mask, strict=False)
        )


def _all(packet: Packet, pattern: _Pattern | None, with_source: bool) -> list[Attribute]:
    found = attributes(packet, with_source)
    if pattern and pattern.fits(packet.payload):
        found.append(("payload", pattern.value))
    return found


def _kept(
    theirs: list[frozenset[Attribute]], alike: Sequence[Packet], pattern: _Pattern | None
) -> list[tuple[Attribute, float]]:
    counts = Counter(itertools.chain.from_iterable(theirs))
    common = {attribute for attribute, count in counts.items() if count >= LEAST_SHARE * len(theirs)}
    usual: Counter[Attribute] = Counter()
    for packet in alike:
        usual.update(common.intersection(_all(packet, pattern, True)))
    scored = []
    for attribute in common:
        lift, sure = _lift(counts[attribute], len(theirs), usual[attribute], len(alike))
        if lift >= LEAST_LIFT and sure > LEAST_SURE_LIFT:
            scored.append((attribute, lift))
    # What good packets have least comes first; names decide between equals: the same packets make the same rule.
    scored.sort(key=lambda item: (-item[1], item[0][0], repr(item[0][1])))
    return scored[:_MOST_ATTRIBUTES]


def _lift(attack: int, attacks: int, good: int, goods: int) -> tuple[float, float]:
    """How many times as often, and the lower end of its 95 % interval (of a ratio of shares, by its logarithm)."""
    share, usual = attack / attacks, (good + 0.5) / (goods + 1)
    lift = share / usual
    spread = (1 - share) / attack + max(0.0, 1 - usual) / (good + 0.5)
    return lift, lift * math.exp(-_Z95 * math.sqrt(spread))


def _best(
    theirs: list[frozenset[Attribute]], alike: Iterable[frozenset[Attribute]], kept: list[tuple[Attribute, float]]
) -> tuple[Attribute, ...]:
    names = [attribute for attribute, _ in kept]
    bits = {attribute: 1 << at for at, attribute in enumerate(names)}

    def masks(packets: Iterable[frozenset[Attribute]]) -> Counter[int]:
        return Counter(sum(bits[attribute] for attribute in bits.keys() & packet) for packet in packets)

    bad, good = masks(theirs), masks(alike)
    few = range(1, min(3, len(names)) + 1)
    combinations = [chosen for size in few for chosen in itertools.combinations(range(len(names)), size)]

    def gain(chosen: tuple[int, ...]) -> int:
        wanted = sum(1 << at for at in chosen)
        attack = sum(count for mask, count in bad.items() if mask & wanted == wanted)
        return attack - _PENALTY * sum(count for mask, count in good.items() if mask & wanted == wanted)

    most = max(gain(chosen) for chosen in combinations)
    # More conditions hit fewer of those that nobody has seen yet: the narrowest of nearly equals, nothing said twice.
    near = [chosen for chosen in combinations if gain(chosen) >= most - 0.02 * len(theirs)]

    def narrowness(chosen: tuple[int, ...]) -> tuple[int, int, int, int]:
        said = [names[at] for at in chosen]
        return len({_field(one) for one in said}), -len(said), sum(map(_narrow, said)), gain(chosen)

    return tuple(names[at] for at in max(near, key=narrowness))


def _narrow(attribute: Attribute) -> int:
    """How narrow, among attributes of one field."""
    name, value = attribute
    if name == "source" and isinstance(value, tuple):
        return value[1]
    return 0 if name in ("lengths", "many_hops") else 1


def _field(attribute: Attribute) -> str:
    return {"lengths": "length", "many_hops": "hops"}.get(attribute[0], attribute[0])


def _match(example: Packet, chosen: tuple[Attribute, ...], pattern: _Pattern | None) -> Match:
    said: dict[str, object] = {"protocol": example.protocol}
    if kind_of(example) == "syn":
        said["flags"] = (0x12, 0x02)
    # Wide conditions first, so that a narrow one of the same field takes their place.
    for name, value in sorted(chosen, key=lambda attribute: attribute[0] not in ("lengths", "many_hops")):
        match name, value:
            case "source", (v6, length, bits) if isinstance(bits, int):
                said["source"] = _prefix(bool(v6), bits << ((128 if v6 else 32) - length), length)
            case "destination", (v6, address):
                said["destination"] = _prefix(bool(v6), address, 128 if v6 else 32)
            case "lengths", int(first):
                said["length"] = (first, first + _BUCKET_BYTES - 1)
            case "many_hops", int(at):
                said["hops"] = (_HOPS[at], _HOPS[at + 1] - 1)
            case (("source_port" | "destination_port"), int(port)):
                said[name + "s"] = (port, port)
            case (("length" | "hops" | "window" | "mss"), int(number)):
                said[name] = (number, number)
            case "flags", int(flags):
                said["flags"] = (0xFF, flags)
            case "options", int(options):
                said["fingerprint"] = options
            case "zero_id", _:
                said["has_zero_id"] = True
            case "fragment", _:
                said["is_fragment"] = True
            case "payload", _:
                assert pattern is not None
                said["payload"] = Payload(0, pattern.value.hex(), pattern.mask.hex())
    return Match(**said)  # type: ignore[arg-type]


def _prefix(is_ipv6: bool, address: int, length: int) -> str:
    where = ipaddress.IPv6Address(address) if is_ipv6 else ipaddress.IPv4Address(address)
    return f"{where}/{length}"


def sentence(match: Match) -> str:
    """The conditions in a line, for people."""
    words = {6: "TCP", UDP: "UDP", 1: "ICMP", 58: "ICMPv6"}
    said = [words.get(match.protocol, f"protocol {match.protocol}")] if match.protocol is not None else []
    if match.flags:
        said.append("SYN" if match.flags == (0x12, 0x02) else f"flags {match.flags[1]:#04x}")
    for name, span in (
        ("from port", match.source_ports),
        ("to port", match.destination_ports),
        ("length", match.length),
        ("TTL", match.hops),
        ("window", match.window),
        ("MSS", match.mss),
    ):
        if span:
            said.append(f"{name} {span[0]}" if span[0] == span[1] else f"{name} {span[0]}-{span[1]}")
    said += [f"{name} {prefix}" for name, prefix in (("from", match.source), ("to", match.destination)) if prefix]
    if match.fingerprint is not None:
        said.append(f"options {match.fingerprint:08x}")
    said += ["IP id 0"] if match.has_zero_id else []
    said += ["fragment"] if match.is_fragment else []
    if match.payload:
        said.append(f"payload {match.payload.bytes}")
    return ", ".join(said)
