"""Attacks of real connections, as one attack on an application whoever takes part: made of what the engine detects.

Pure: the caller brings the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from causeway.model.mitigation import Attack
from causeway.model.report import Detection

_OVER_MS = 120_000  # as long as one row of the engine goes on
_MOST_OVER = 256
_MOST_SOURCES = 10_000
_AT_ONCE_MS = 1_500  # sources seen within it were there together: the engine counts once a second
_WORDS = {
    "connection_flood": "connections",
    "brute_force": "short connections, as of tries to log in,",
    "port_scan": "connections to port after port",
    "idle_hold": "connections that say nothing, which gave way in a full edge,",
}


@dataclass(slots=True)
class _Episode:
    first: Detection
    last_unix_ms: int = 0
    rows: dict[str, Detection] = field(default_factory=dict)  # that the engine tells of, and the one with most
    left: set[str] = field(default_factory=set)  # sources of rows that it tells of no more, as many as are kept
    left_count: int = 0
    began_unix_ms: int = 0
    answered_unix_ms: int | None = None
    peak_per_s: int = 0

    def take(self, row: Detection) -> None:
        self.rows[row.id] = row
        self.last_unix_ms = max(self.last_unix_ms, row.last_unix_ms)
        began = row.began_unix_ms or row.started_unix_ms
        self.began_unix_ms = min(began, self.began_unix_ms or began)
        if row.until_unix_ms is not None:  # a row begins with its ban
            self.answered_unix_ms = min(row.started_unix_ms, self.answered_unix_ms or row.started_unix_ms)
        present = [it.per_s for it in self.rows.values() if self.last_unix_ms - it.last_unix_ms <= _AT_ONCE_MS]
        self.peak_per_s = max(self.peak_per_s, sum(present))

    def keep(self, told: set[str]) -> None:
        """Of rows that have left the engine's list only what they come to is kept, but for the one with most."""
        most = self._most().id
        for gone in [row for row in self.rows.values() if row.id not in told and row.id != most]:
            del self.rows[gone.id]
            self.left_count += gone.count
            if len(self.left) < _MOST_SOURCES:
                self.left.add(gone.source)

    def _most(self) -> Detection:
        return max(self.rows.values(), key=lambda row: row.count)

    def attack(self, *, is_over: bool) -> Attack:
        sources = len(self.left | {row.source for row in self.rows.values()})
        most = self._most().source
        who = most if sources == 1 else f"{sources:,} sources, most of them from {most}"
        return Attack(
            id=self.first.id,
            application=self.first.application,
            kind=self.first.kind,
            vector=f"{_WORDS.get(self.first.kind, self.first.kind)} from {who}",
            started_unix_ms=self.began_unix_ms,
            ended_unix_ms=self.last_unix_ms if is_over else None,
            detected_after_ms=max(0, self.first.started_unix_ms - self.began_unix_ms),
            mitigated_after_ms=answered - self.began_unix_ms if (answered := self.answered_unix_ms) else None,
            peak_packets_per_s=self.peak_per_s,  # connections, too
            packets_dropped=self.left_count + sum(row.count for row in self.rows.values()),  # connections: a SYN each
        )


class Episodes:
    """What is going on, and the last of what is over."""

    def __init__(self) -> None:
        self._going_on: dict[tuple[str, str], _Episode] = {}
        self._over: deque[Attack] = deque(maxlen=_MOST_OVER)

    def attacks(self, detections: list[Detection], now_unix_ms: int) -> list[Attack]:
        """Those that are going on and those that are over, by what the engine tells of the last sources."""
        for row in detections:
            if now_unix_ms - row.last_unix_ms <= _OVER_MS:
                self._going_on.setdefault((row.application, row.kind), _Episode(row)).take(row)
        told = {row.id for row in detections}
        for key, episode in list(self._going_on.items()):
            episode.keep(told)
            if now_unix_ms - episode.last_unix_ms > _OVER_MS:
                self._over.append(episode.attack(is_over=True))
                del self._going_on[key]
        return [*self._over, *(episode.attack(is_over=False) for episode in self._going_on.values())]
