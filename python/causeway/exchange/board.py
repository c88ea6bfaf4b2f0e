"""What is known of one edge: its newest report, its newest events, and who listens to them.

Events stay undecoded until somebody reads them: at tens of thousands a second that is what they cost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from causeway.model.report import Event, Report, decode_events

BACKLOG_EVENTS = 20_000  # per reader; about 20 MB at worst
_RECENT_BYTES = 512 * 1024  # a thousand events or more


class EventReader:
    """A `bus.Reader`: what came since it last looked."""

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


class Board:
    """Reports are put up here; readers and questions find them."""

    def __init__(self) -> None:
        self._report: Report | None = None
        self._readers: list[EventReader] = []
        self._recent: deque[bytes] = deque()
        self._recent_bytes = 0
        self._lock = threading.Lock()

    @property
    def report(self) -> Report | None:
        return self._report

    @property
    def has_readers(self) -> bool:
        return bool(self._readers)

    def put_up(self, report: Report) -> None:
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

    @contextmanager
    def reading(self, notify: Callable[[], None]) -> Iterator[EventReader]:
        reader = EventReader(notify)
        with self._lock:
            self._readers.append(reader)
        try:
            yield reader
        finally:
            with self._lock:
                self._readers.remove(reader)
