"""What control and edges say to each other, whatever carries it: snapshots down, reports and events up.

Two faces of one bus: control holds a `ControlSide`, an agent an `EdgeSide`. Nobody waits for a slow reader of events.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from causeway.model.report import ApplyReport, BlobReport, Event, Explanation, Report, RuleHits

LEAVING = "edge_leaving"  # an edge that sends its clients elsewhere before it obeys: not yet, in place of no


class EdgeRefused(Exception):
    """The edge did not take a snapshot; what it served before still runs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Edge(Protocol):
    """What an edge does when asked."""

    def apply(self, snapshot: bytes) -> ApplyReport:
        """Do what the snapshot says. Raises EdgeRefused: nothing was changed."""

    def observe(self) -> Report:
        """Look now, publish, and answer what was seen."""

    def wake(self) -> None:
        """Somebody listens: look again soon."""

    def put_blob(self, kind: str, content: bytes, *, overlaps: bool, private: bool) -> BlobReport:
        """Take a list or database in. Raises EdgeRefused: what is wrong with it; nothing was changed."""

    def has_blob(self, digest: str) -> bool:
        """Whether a snapshot may name this list or database."""

    def rule_hits(self) -> list[RuleHits]:
        """Rules that have decided something, once for each zone."""

    def explain(self, application: str, client: str, port: int) -> Explanation | None:
        """What the rules say of a client; nothing where the application has no firewall."""

    def identify(self, identity: bytes) -> None:
        """Be this to other edges (see `identity.to_edges`). Raises EdgeRefused: it goes on as what it was."""

    def steer(self, routes: bytes) -> None:
        """Have flows go these ways (see `model.routes`). Raises EdgeRefused: they go as they went."""


class Names(Protocol):
    """Who answers names on an edge. The SHA-256 of its places is empty where it has none."""

    serial: int
    places_sha256: str

    def set_table(self, table: bytes) -> None:
        """Answer by it from now on, and after a restart."""

    def set_places(self, mmdb: bytes | None) -> str | None:
        """Know by this file where clients are; answers why it is of no use."""


class Reader(Protocol):
    """One listener's view of the events from the moment it came."""

    def take(self) -> tuple[list[Event], int]:
        """What came since the last call, and how many were lost on the way because this reader is slow."""


class ControlSide(Protocol):
    def deliver(self, snapshot: bytes) -> ApplyReport:
        """Have the edge do what the snapshot says. Raises EdgeRefused: it serves what it served before."""

    def report(self) -> Report | None:
        """The newest report; nothing if no edge has come yet."""

    def fresh_report(self) -> Report | None:
        """Ask the edge to look now."""

    def put_blob(self, kind: str, content: bytes, *, overlaps: bool, private: bool) -> BlobReport:
        """Take a list or database in. Raises EdgeRefused: what is wrong with it; nothing was changed."""

    def has_blob(self, digest: str) -> bool:
        """Whether a snapshot may name this list or database."""

    def rule_hits(self) -> list[RuleHits]:
        """Rules that have decided something, once for each zone."""

    def explain(self, application: str, client: str, port: int) -> Explanation | None:
        """What the rules say of a client; nothing where the application has no firewall."""

    def steer(self, routes: bytes) -> None:
        """Have flows go these ways (see `model.routes`). Raises EdgeRefused: they go as they went."""

    def recent(self) -> list[Event]:
        """The newest events, oldest first; as many as are kept."""

    def events(self, notify: Callable[[], None]) -> AbstractContextManager[Reader]:
        """Listen to events; `notify` is called from another thread when there are new ones, or news of an attack."""


class EdgeSide(Protocol):
    def attach(self, edge: Edge) -> None:
        """An edge comes in."""

    def publish(self, report: Report) -> None:
        """Tell what was seen."""

    @property
    def has_readers(self) -> bool:
        """Whether somebody waits for events."""
