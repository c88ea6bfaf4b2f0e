"""The exchange of one process: control and one edge meet here and nowhere else.

Events stay undecoded until somebody reads them: at tens of thousands a second that is what they cost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from causeway.exchange.bus import Edge, EdgeRefused
from causeway.model.report import ApplyReport, BlobReport, Event, Explanation, Report, RuleHits, decode_events

BACKLOG_EVENTS = 20_000  # per reader; about 20 MB at worst
_RECENT_BYTES = 512 * 1024  # a thousand events or more


class LocalReader:
    def __init__(self, notify: Callable[[], None], backlog: int = BACKLOG_EVENTS) -> None:
        self._events: deque[Event] = deque()
        self._backlog = backlog
        self._lost = 0
        self._lock = threading.Lock()
        self._notify = notify

    def offer(self, events: list[Event]) -> None:
        """Take new events in; what is over the backlog goes, the oldest first."""
        with self._lock:
            self._events.extend(events)
            while len(self._events) > self._backlog:
                self._events.popleft()
                self._lost += 1
        self._notify()

    def take(self) -> tuple[list[Event], int]:
        with self._lock:
            events, lost = list(self._events), self._lost
            self._events.clear()
            self._lost = 0
        return events, lost


def _attacks(report: Report) -> list[tuple[str, int | None]]:
    return [(attack.id, attack.ended_unix_ms) for attack in report.attacks]


class LocalExchange:
    """Both sides of the bus: see `bus`."""

    def __init__(self) -> None:
        self._edge: Edge | None = None
        self._report: Report | None = None
        self._readers: list[LocalReader] = []
        self._recent: deque[bytes] = deque()
        self._recent_bytes = 0
        self._lock = threading.Lock()

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

    def _present(self) -> Edge:
        if self._edge is None:
            raise EdgeRefused("edge_missing", "no edge is running here")
        return self._edge

    def report(self) -> Report | None:
        return self._report

    def fresh_report(self) -> Report | None:
        return self._edge.observe() if self._edge else self._report

    def publish(self, report: Report) -> None:
        events = bytes(report.events)
        with self._lock:
            has_news = self._report is not None and _attacks(self._report) != _attacks(report)
            self._report = report
            readers = list(self._readers)
            if report.has_events:
                self._remember(events)
        if report.has_events and readers:
            decoded = decode_events(events)
            for reader in readers:
                reader.offer(decoded)
        elif has_news:
            for reader in readers:
                reader.offer([])

    def _remember(self, events: bytes) -> None:
        self._recent.append(events)
        self._recent_bytes += len(events)
        while self._recent_bytes > _RECENT_BYTES and len(self._recent) > 1:
            self._recent_bytes -= len(self._recent.popleft())

    def recent(self) -> list[Event]:
        with self._lock:
            batches = list(self._recent)
        return [event for batch in batches for event in decode_events(batch)]

    @property
    def has_readers(self) -> bool:
        return bool(self._readers)

    @contextmanager
    def events(self, notify: Callable[[], None]) -> Iterator[LocalReader]:
        reader = LocalReader(notify)
        with self._lock:
            self._readers.append(reader)
        if self._edge:
            self._edge.wake()
        try:
            yield reader
        finally:
            with self._lock:
                self._readers.remove(reader)
