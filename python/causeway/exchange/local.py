"""The exchange of one process: control and one edge meet here and nowhere else.

Readers of events that are too slow lose the oldest and are told how many; nobody waits for them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from causeway.model.report import ApplyReport, Event, Report

_READER_BACKLOG = 20_000


class EdgeRefused(Exception):
    """The edge did not take a snapshot; what it served before still runs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Reader:
    """One listener's view of the events from the moment it came."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self._events: deque[Event] = deque(maxlen=_READER_BACKLOG)
        self._lock = threading.Lock()
        self._lost = 0
        self._notify = notify

    def offer(self, events: list[Event]) -> None:
        with self._lock:
            self._lost += max(0, len(self._events) + len(events) - _READER_BACKLOG)
            self._events.extend(events)
        self._notify()

    def take(self) -> tuple[list[Event], int]:
        """What came since the last call, and how many were lost on the way."""
        with self._lock:
            events, lost = list(self._events), self._lost
            self._events.clear()
            self._lost = 0
        return events, lost


class LocalExchange:
    def __init__(self) -> None:
        self._edge: Callable[[bytes], ApplyReport] | None = None
        self._readers: list[Reader] = []
        self._lock = threading.Lock()
        self._report: Report | None = None
        self._waker: Callable[[], None] = lambda: None
        self.recent: deque[Event] = deque(maxlen=1_000)

    def attach(self, apply: Callable[[bytes], ApplyReport], wake: Callable[[], None]) -> None:
        """An edge comes in: `apply` takes snapshots, `wake` asks it to report soon."""
        self._edge = apply
        self._waker = wake

    def deliver(self, snapshot: bytes) -> ApplyReport:
        """Have the edge do what the snapshot says and hear which listeners run.

        Raises:
            EdgeRefused: it serves what it served before.
        """
        if self._edge is None:
            raise EdgeRefused("edge_missing", "no edge is running here")
        return self._edge(snapshot)

    def publish(self, report: Report) -> None:
        """An edge tells what it has seen."""
        with self._lock:
            self._report = report
            self.recent.extend(report.events)
            readers = list(self._readers)
        if report.events:
            for reader in readers:
                reader.offer(report.events)

    def report(self) -> Report | None:
        """The newest report."""
        return self._report

    @property
    def has_readers(self) -> bool:
        return bool(self._readers)

    @contextmanager
    def events(self, notify: Callable[[], None]) -> Iterator[Reader]:
        """Listen to events; `notify` is called from the edge's thread when there are new ones."""
        reader = Reader(notify)
        with self._lock:
            self._readers.append(reader)
        self._waker()
        try:
            yield reader
        finally:
            with self._lock:
                self._readers.remove(reader)


def of_application(events: Iterable[Event], application_id: str | None) -> list[Event]:
    return [event for event in events if application_id in (None, event.application)]
