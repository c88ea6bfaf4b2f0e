"""The exchange of one process: control and one edge meet here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from causeway.exchange.board import Board, EventReader
from causeway.exchange.bus import Edge, EdgeRefused
from causeway.model.report import ApplyReport, BlobReport, Event, Explanation, Report, RuleHits


class LocalExchange:
    """Both sides of the bus: see `bus`."""

    def __init__(self) -> None:
        self._edge: Edge | None = None
        self._board = Board()

    def attach(self, edge: Edge) -> None:
        self._edge = edge

    def deliver(self, snapshot: bytes) -> ApplyReport:
        return self._present().apply(snapshot)

    def put_blob(self, kind: str, content: bytes, *, overlaps: bool, private: bool) -> BlobReport:
        return self._present().put_blob(kind, content, overlaps=overlaps, private=private)

    def has_blob(self, digest: str) -> bool:
        return self._present().has_blob(digest)

    def rule_hits(self) -> list[RuleHits]:
        return self._edge.rule_hits() if self._edge else []

    def explain(self, application: str, client: str, port: int) -> Explanation | None:
        return self._present().explain(application, client, port)

    def steer(self, routes: bytes) -> None:
        self._present().steer(routes)

    def _present(self) -> Edge:
        if self._edge is None:
            raise EdgeRefused("edge_missing", "no edge is running here")
        return self._edge

    def report(self) -> Report | None:
        return self._board.report

    def fresh_report(self) -> Report | None:
        return self._edge.observe() if self._edge else self._board.report

    def publish(self, report: Report) -> None:
        self._board.put_up(report)

    def recent(self) -> list[Event]:
        return self._board.recent()

    @property
    def has_readers(self) -> bool:
        return self._board.has_readers

    @contextmanager
    def events(self, notify: Callable[[], None]) -> Iterator[EventReader]:
        with self._board.reading(notify) as reader:
            if self._edge:
                self._edge.wake()
            yield reader
