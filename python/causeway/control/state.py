"""What control knows of one moment, and what becomes of it in one change: values alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from causeway.model.application import Address, Application
from causeway.model.limit import Of
from causeway.model.origin_policy import OriginPolicy
from causeway.model.paths import Peer
from causeway.model.rollout import Course
from causeway.model.snapshot import Settings


@dataclass(frozen=True, slots=True)
class Site:
    """What the operator said when starting: the same for every application of this machine."""

    edge_addresses: tuple[Address, ...]
    settings: Settings
    origins: OriginPolicy
    overlay: str = ""  # where this machine's edge listens for others, HOST:PORT; nothing: nowhere

    @property
    def has_edge(self) -> bool:
        """Whether this machine serves anybody itself."""
        return bool(self.edge_addresses)


@dataclass(frozen=True, slots=True)
class Piece:
    """An application and its part of the snapshot, encoded once. `unserved` says why there is none.

    `addresses`: of this machine; none where it is served by edges of other machines alone. `claimed`: of every edge.
    """

    application: Application
    addresses: tuple[Address, ...]
    encoded: bytes
    unserved: str | None = None
    claimed: tuple[Address, ...] = ()


class Edit(NamedTuple):
    """What the edge has to hear of: the application as it is now, or that it is gone.

    `is_now`: edges of other machines get it at once, whatever it touches.
    """

    application_id: str
    application: Application | None
    is_now: bool = False


class NewRules(NamedTuple):
    """IP Access Rules were changed, or what they and limits go by."""


class Switched(NamedTuple):
    """Automatic mitigation was switched on or off."""

    is_on: bool


class Steered(NamedTuple):
    """Which zones have smart routing on was changed."""

    smart_zones: frozenset[str]


class Drained(NamedTuple):
    """Which edges of other machines serve nobody was changed; this machine's does not hear of it."""

    edges: frozenset[str]


class State(NamedTuple):
    """What this machine's edge serves, all of one moment, and how much of it the others may have."""

    version: int
    pieces: tuple[Piece, ...]
    firewalls: tuple[bytes, ...]
    asn: str | None
    mitigates: bool
    drained: frozenset[str]
    peers: tuple[Peer, ...] = ()
    course: Course = Course()
    smart_zones: frozenset[str] = frozenset()

    @property
    def wanted(self) -> dict[str, Application]:
        return served(self.pieces)


def served(pieces: Iterable[Piece]) -> dict[str, Application]:
    return {piece.application.id: piece.application for piece in pieces if not piece.unserved}


def is_by_asn(application: Application) -> bool:
    return any(limit.of is Of.ASN for limit in application.extension.limits)
