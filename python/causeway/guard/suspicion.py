"""Whether packets are to be looked at in the kernel although nothing is held, and how many of them. Pure.

Looking costs something, so in peace nobody does. What the stack and the engine count is enough to become suspicious.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from causeway.guard.history import History
from causeway.guard.pace import MachinePace
from causeway.guard.symptoms import is_pressed
from causeway.model.mitigation import Look

WATCH_MS = 60_000  # after the last reason to
_SAMPLES_PER_S, _WATCHING_SAMPLES_PER_S, _PEACE_SAMPLES_PER_S = 2_000, 500, 200  # each costs some 10 us
_FREE_MS = 10_000  # a guard that is there without being asked for: the operator wants it, so looking costs little more
_COOKIES_PER_S, _LISTEN_DROPS_PER_S = 200.0, 50.0
_RECEIVED_FLOOR, _RECEIVED_FACTOR = 20_000.0, 4.0
_MOST_EVERY = 1 << 16


@dataclass(slots=True)
class Suspicion:
    """Of one edge."""

    sample_every: int = 0
    _until_ms: int = -1
    _unasked_since_ms: int | None = None  # the guard is attached, and nothing here is the reason
    _received: History = field(default_factory=History)

    def suspect(self, at_ms: int) -> None:
        self._until_ms = at_ms + WATCH_MS

    def look(self, machine: MachinePace, at_ms: int) -> None:
        """Become suspicious if the machine gives reason to."""
        most = max(_RECEIVED_FLOOR, _RECEIVED_FACTOR * (self._received.usual() or 0.0))
        if (
            machine.received > most
            or machine.cookies_sent > _COOKIES_PER_S
            or machine.listen_drops > _LISTEN_DROPS_PER_S
            or (is_pressed(machine) and machine.queue_drops + machine.missed > 0)
        ):
            self.suspect(at_ms)

    def learn(self, received_per_s: float, at_ms: int) -> None:
        """A second without an attack is over."""
        self._received.add(received_per_s, at_ms / 1_000)

    def is_alert(self, at_ms: int) -> bool:
        return at_ms < self._until_ms

    def sampling(self, look: Look, is_holding: bool, packets_per_s: float) -> int:
        """One packet in how many is to be seen. Changes seldom: every change writes a whole plan into the kernel."""
        if is_holding or self.is_alert(look.at_ms):
            self._unasked_since_ms = None
            wanted = _SAMPLES_PER_S if is_holding else _WATCHING_SAMPLES_PER_S
        elif look.is_attached:
            since = self._unasked_since_ms = look.at_ms if self._unasked_since_ms is None else self._unasked_since_ms
            wanted = _PEACE_SAMPLES_PER_S if look.at_ms - since >= _FREE_MS else 0
        else:
            self._unasked_since_ms, wanted = None, 0
        if not wanted:
            self.sample_every = 0
            return 0
        every = min(_MOST_EVERY, 1 << max(0, int(packets_per_s / wanted).bit_length()))
        if not self.sample_every or not every // 4 < self.sample_every < every * 4:
            self.sample_every = every
        return self.sample_every
