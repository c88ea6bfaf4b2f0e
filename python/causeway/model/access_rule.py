"""IP Access Rules: which clients applications with `ip_firewall` let in. Pure.

Names are those of the Cloudflare v4 API: `whitelist` allows, and beats `block` where both name the same prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Target(StrEnum):
    IP = "ip"
    IP6 = "ip6"
    IP_RANGE = "ip_range"
    ASN = "asn"
    COUNTRY = "country"


class Mode(StrEnum):
    BLOCK = "block"
    WHITELIST = "whitelist"
    CHALLENGE = "challenge"
    JS_CHALLENGE = "js_challenge"
    MANAGED_CHALLENGE = "managed_challenge"


ALLOWED_MODES = (Mode.BLOCK, Mode.WHITELIST)


class Level(StrEnum):
    """What a rule is for: one zone, or every zone of an account."""

    ZONE = "zone"
    ACCOUNT = "organization"


@dataclass(frozen=True, slots=True)
class Owner:
    level: Level
    id: str


@dataclass(frozen=True, slots=True)
class AccessRule:
    """`value` is canonical: no host bits, short IPv6. `drop_established`: what it blocks is also cut if it is live."""

    id: str
    owner: Owner
    target: Target
    value: str
    mode: Mode
    notes: str
    created_on: datetime
    modified_on: datetime
    drop_established: bool = False

    @property
    def prefix(self) -> str:
        return prefix_of(self.target, self.value)


def prefix_of(target: Target, value: str) -> str:
    """The prefix that an address or range stands for."""
    lengths = {Target.IP: "/32", Target.IP6: "/128", Target.IP_RANGE: ""}
    return value + lengths[target]


@dataclass(frozen=True, slots=True)
class Firewall:
    """The rules of one zone and its account as the engine gets them: no prefix twice, sorted."""

    allow: tuple[str, ...] = ()
    block: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def compile_rules(rules: Iterable[tuple[str, Mode, bool]]) -> Firewall:
    """Decide what holds for each prefix; given are prefix, mode and `drop_established`."""
    kinds: dict[str, int] = {}  # 0 block, 1 cut, 2 allow: the higher one holds
    for prefix, mode, drop_established in rules:
        kind = 2 if mode is Mode.WHITELIST else int(drop_established)
        kinds[prefix] = max(kind, kinds.get(prefix, 0))
    block, cut, allow = (tuple(sorted(prefix for prefix, kind in kinds.items() if kind == k)) for k in range(3))
    return Firewall(allow=allow, block=block, cut=cut)
