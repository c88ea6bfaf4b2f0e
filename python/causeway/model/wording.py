"""Automatic rules and how sure they are, in words: for logs and for the command line. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from causeway.model.mitigation import Match, Payload, Range, Rule

_PROTOCOLS = {1: "ICMP", 2: "IGMP", 4: "IP in IP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 58: "ICMPv6"}
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_VERBS = {"drop": "drops", "pass": "lets pass", "watch": "only counts"}


def rule_text(rule: Rule) -> str:
    """Such as `drops UDP, source port 53, 1000-1500 bytes`."""
    return f"{_VERBS[rule.action]} {match_text(rule.match)}"


def match_text(match: Match) -> str:
    """All that has to hold of a packet."""
    family = "" if match.is_ipv6 is None else "IPv6 " if match.is_ipv6 else "IPv4 "
    number = match.protocol
    kind = "packets" if number is None else _PROTOCOLS.get(number, f"packets of IP protocol {number}")
    return ", ".join([f"{family}{kind}", *_conditions(match)])


def bound_text(bound: float | None, good_samples: int) -> str:
    """How many good packets a rule drops, as far as has been proven."""
    if bound is None:
        return f"not proven yet, on {good_samples:,} good packets" if good_samples else "not proven on good packets"
    return f"at most {_percent(bound)} % of good packets (95 % confidence, 0 of {good_samples:,})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}" if share > 1e-5 else f"{100 * share:.8f}".rstrip("0").rstrip(".")


def _conditions(match: Match) -> Iterator[str]:
    if match.is_fragment:
        yield "fragments"
    if match.source:
        yield f"from {match.source}"
    if match.destination:
        yield f"to {match.destination}"
    if match.source_ports:
        yield f"source port {_range(match.source_ports)}"
    if match.destination_ports:
        yield f"destination port {_range(match.destination_ports)}"
    if match.length:
        yield f"{_range(match.length)} bytes"
    if match.hops:
        yield f"time to live {_range(match.hops)}"
    if match.flags:
        yield f"flags {_flags(*match.flags)}"
    if match.window:
        yield f"window {_range(match.window)}"
    if match.mss:
        yield "no MSS" if match.mss == (0, 0) else f"MSS {_range(match.mss)}"
    if match.fingerprint is not None:
        yield f"TCP options {match.fingerprint:#x}"
    if match.has_zero_id:
        yield "IP identification 0"
    if match.payload:
        yield _payload(match.payload)


def _range(of: Range) -> str:
    first, last = of
    return str(first) if first == last else f"{first}-{last}"


def _flags(mask: int, value: int) -> str:
    on = [name for bit, name in enumerate(_FLAGS) if mask & value & 1 << bit]
    off = [name for bit, name in enumerate(_FLAGS) if mask & ~value & 1 << bit]
    return " and ".join(part for part in (" ".join(on), f"not {' '.join(off)}" if off else "") if part)


def _payload(payload: Payload) -> str:
    masked = "" if set(payload.mask.lower()) == {"f"} else f" under {payload.mask}"
    return f"payload {payload.bytes}{masked} at byte {payload.at}"
