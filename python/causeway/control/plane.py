"""The control plane of this machine: the database, the edge, and the rule that they agree.

A change is one act: it is written, compiled, running on the edge and committed, or it did not happen.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection

from causeway.exchange.local import EdgeRefused, LocalExchange
from causeway.model.application import Address, Application
from causeway.model.origin_policy import OriginPolicy
from causeway.model.problem import Code, Problem
from causeway.model.report import ApplyReport
from causeway.model.snapshot import Settings, encode_application, encode_snapshot
from causeway.store import applications as stored
from causeway.store import sequences
from causeway.store.database import Database, StoreError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """What the operator said when starting: the same for every application of this machine."""

    edge_addresses: tuple[Address, ...]
    settings: Settings
    origins: OriginPolicy


@dataclass(frozen=True, slots=True)
class Piece:
    """An application and its part of the snapshot."""

    application: Application
    encoded: bytes


@dataclass(slots=True)
class Plane:
    """Everything that control knows. One change at a time; reading waits for nobody."""

    site: Site
    exchange: LocalExchange
    database: Database | None = None
    unavailable: str | None = "the control plane is starting"
    pieces: dict[str, Piece] = field(default_factory=dict)
    version: int = 0
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def open(self, database: Database) -> None:
        """Take the database into use and bring the edge to what it says.

        Raises:
            StoreError: it cannot be read.
            EdgeRefused: the edge serves what it served before.
        """
        with database.read() as connection:
            everything = list(stored.every(connection))
            self.version = sequences.snapshot_version(connection)
        self.pieces = {application.id: self.compile(application) for application in everything}
        self.database = database
        self.version = self._next_version()
        self._deliver(self.pieces, self.version)
        with database.write() as connection:
            sequences.set_snapshot_version(connection, self.version)
        self.unavailable = None

    def compile(self, application: Application) -> Piece:
        return Piece(application, encode_application(application, application.edge_addresses(self.site.edge_addresses)))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view of the database; a failing one becomes a Problem."""
        with told(), self._open().read() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Change what no edge needs to hear of."""
        with self._changing, told(), self._open().write() as connection:
            yield connection

    def change(self, write: Callable[[Connection], tuple[str, Application | None]]) -> None:
        """Change one application everywhere, or nowhere.

        `write` changes the rows and answers the id and the new application, or none if it is deleted.

        Raises:
            Problem: from `write`, or because database or edge refused; nothing was changed.
        """
        with self._changing, told():
            before, delivered = self.pieces, False
            try:
                with self._open().write() as connection:
                    application_id, application = write(connection)
                    after = {key: piece for key, piece in before.items() if key != application_id or application}
                    if application:
                        after[application_id] = self.compile(application)
                    version = self._next_version()
                    delivered = True
                    report = self._deliver(after, version)
                    _refuse_if_not_running(report, application_id)
                    sequences.set_snapshot_version(connection, version)
            except BaseException:
                if delivered:
                    self._restore(before)
                raise
            self.pieces, self.version = after, version

    def _deliver(self, pieces: dict[str, Piece], version: int) -> ApplyReport:
        snapshot = encode_snapshot(version, self.site.settings, (piece.encoded for piece in pieces.values()))
        return self.exchange.deliver(snapshot)

    def _restore(self, pieces: dict[str, Piece]) -> None:
        """Put the edge back to what is stored; its versions only grow."""
        self.version = self._next_version()
        try:
            self._deliver(pieces, self.version)
        except EdgeRefused as error:
            log.error("the edge did not go back to the stored state: %s", error)

    def _next_version(self) -> int:
        report = self.exchange.report()
        return max(self.version, report.version if report else 0) + 1

    def _open(self) -> Database:
        if self.database is None or self.unavailable:
            raise Problem(Code.INTERNAL, self.unavailable or "the control plane is starting", side="edge")
        return self.database


def _refuse_if_not_running(report: ApplyReport, application_id: str) -> None:
    for listener in report.refusals(application_id):
        reason = listener.reason.message if listener.reason else "the edge could not listen there"
        raise Problem(Code.PORT, reason, pointer="/protocol", side="edge")


@contextmanager
def told() -> Iterator[None]:
    """Failures of database and edge, as the caller of the API hears them."""
    try:
        yield
    except StoreError as error:
        log.error("%s", error)
        raise Problem(Code.INTERNAL, f"{error}. Nothing was changed; traffic goes on", side="edge") from error
    except EdgeRefused as error:
        log.error("the edge refused a snapshot: %s", error)
        raise Problem(Code.INTERNAL, f"the edge refused the change ({error.code}): {error}", side="edge") from error


def now() -> datetime:
    return datetime.now(UTC)
