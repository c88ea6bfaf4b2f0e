"""How busy an application usually is, and from when on that is too much.

Pure. A rate per second goes in for every second without an attack; out comes the 95th percentile of the last seven
days. Memory is bounded: counts of rates by powers of 2^(1/8), in slots of six hours. So it is at most 9 % too high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from causeway.model.mitigation import Sensitivity

_SLOT_S = 6 * 3600
_SLOTS = 7 * 24 * 3600 // _SLOT_S
_STEPS = 8  # of each doubling
_LEAST_S = 60  # of history, before it is believed
_QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class Bounds:
    """Per second. Below the floor nothing is too much; above the cap everything is, whatever history says."""

    floor: float
    cap: float
    factor: float  # times the 95th percentile

    def threshold(self, usual: float | None) -> float:
        return min(max(self.floor, self.factor * (usual or 0.0)), self.cap)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What an application may see per second before somebody has to be suspected."""

    newcomers: Bounds  # connections asked for, first datagrams of an address and port
    uninvited: Bounds  # datagrams of nobody that was answered
    strays: Bounds  # TCP of no connection, fragments, and the rest


_MEDIUM = Thresholds(
    newcomers=Bounds(1_000, 20_000, 4),
    uninvited=Bounds(10_000, 200_000, 4),
    strays=Bounds(2_000, 2_000, 1),  # nobody sends those in peace: there is no history to learn from
)


def _scaled(by: float) -> Thresholds:
    def scale(bounds: Bounds) -> Bounds:
        return Bounds(bounds.floor * by, bounds.cap * by, max(1.5, bounds.factor * math.sqrt(by)))

    return Thresholds(scale(_MEDIUM.newcomers), scale(_MEDIUM.uninvited), scale(_MEDIUM.strays))


THRESHOLDS: dict[Sensitivity, Thresholds] = {"low": _scaled(4), "medium": _MEDIUM, "high": _scaled(0.25)}


@dataclass(slots=True)
class History:
    """Of one rate."""

    _slots: dict[int, dict[int, int]] = field(default_factory=dict)
    _total: dict[int, int] = field(default_factory=dict)
    _ticks: int = 0

    def add(self, per_s: float, now_s: float) -> None:
        """Learn what one second was like."""
        slot = int(now_s) // _SLOT_S
        if slot not in self._slots:
            self._slots[slot] = {}
            for old in [old for old in self._slots if old <= slot - _SLOTS]:
                self._forget(old)
        bucket = 0 if per_s < 1 else 1 + int(math.log2(per_s) * _STEPS)
        for counts in (self._slots[slot], self._total):
            counts[bucket] = counts.get(bucket, 0) + 1
        self._ticks += 1

    def usual(self) -> float | None:
        """The rate that 95 of 100 seconds stay below; None while there is too little to say."""
        if self._ticks < _LEAST_S:
            return None
        left = self._ticks * (1 - _QUANTILE)
        for bucket in sorted(self._total, reverse=True):
            left -= self._total[bucket]
            if left < 0:
                return 0.0 if bucket == 0 else 2.0 ** (bucket / _STEPS)
        return 0.0

    def _forget(self, slot: int) -> None:
        for bucket, count in self._slots.pop(slot).items():
            self._ticks -= count
            self._total[bucket] -= count
            if not self._total[bucket]:
                del self._total[bucket]
