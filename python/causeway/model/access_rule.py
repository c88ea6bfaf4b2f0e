"""IP Access Rules: which clients applications with `ip_firewall` let in. Pure.

Names are those of the Cloudflare v4 API: `whitelist` allows, and beats `block` where both name the same prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from causeway.model.application import Ports


class Target(StrEnum):
    IP = "ip"
    IP6 = "ip6"
    IP_RANGE = "ip_range"
    LIST = "list"
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
    """`value` is canonical: no host bits, short IPv6; of a list it is the name.

    `drop_established`: what it blocks is also cut if it is live. `application` and `ports` narrow it, None: all of
    them. `is_dry_run`: only counted. `expires_on`: then it is deleted.
    """

    id: str
    owner: Owner
    target: Target
    value: str
    mode: Mode
    notes: str
    created_on: datetime
    modified_on: datetime
    drop_established: bool = False
    application: str | None = None
    ports: Ports | None = None
    is_dry_run: bool = False
    expires_on: datetime | None = None


def prefix_of(target: Target, value: str) -> str:
    """The prefix that an address or range stands for."""
    lengths = {Target.IP: "/32", Target.IP6: "/128", Target.IP_RANGE: ""}
    return value + lengths[target]


class Compiled(NamedTuple):
    """What the engine has to know of a rule."""

    id: str
    target: Target
    value: str
    mode: Mode
    drop_established: bool = False
    application: str | None = None
    ports: Ports | None = None
    is_dry_run: bool = False

    @property
    def action(self) -> str:
        if self.mode is Mode.WHITELIST:
            return "allow"
        return "cut" if self.drop_established else "block"


@dataclass(frozen=True, slots=True)
class Scope:
    """Rules about the same flows."""

    application: str | None
    ports: Ports | None
    is_dry_run: bool
    rules: tuple[Compiled, ...]


@dataclass(frozen=True, slots=True)
class List:
    """A list of prefixes that rules name. `digest`: of its text, which is kept apart."""

    id: str
    name: str
    description: str
    digest: str
    ipv4: int
    ipv6: int
    created_on: datetime
    modified_on: datetime


@dataclass(frozen=True, slots=True)
class GeoDatabase:
    """Which addresses are whose. `target` is `asn` or `country`."""

    target: Target
    digest: str
    name: str
    prefixes: int
    keys: int
    modified_on: datetime


def compile_rules(rules: Iterable[Compiled]) -> tuple[Scope, ...]:
    """Put rules into scopes, the narrowest first: of an application and ports, of an application, of ports, of all."""
    scopes: dict[tuple[str | None, Ports | None, bool], list[Compiled]] = {}
    for rule in rules:
        scopes.setdefault((rule.application, rule.ports, rule.is_dry_run), []).append(rule)

    def width(key: tuple[str | None, Ports | None, bool]) -> tuple[bool, int, int, str, bool]:
        application, ports, is_dry_run = key
        size, first = (len(ports), ports.first) if ports else (65_536, 0)
        return application is None, size, first, application or "", is_dry_run

    ordered = sorted(scopes, key=width)
    return tuple(Scope(*key, tuple(sorted(scopes[key], key=lambda rule: rule.id))) for key in ordered)
