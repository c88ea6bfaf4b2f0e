"""Who sends most, in little memory: Space-Saving.

A count is at most `total / room` too high, and whoever has more than that share is among those kept.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Hitter(NamedTuple, Generic[Key]):
    key: Key
    weight: float
    too_high_by: float  # at most


class Hitters(Generic[Key]):
    """The heaviest `room` keys or so."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._counts: dict[Key, float] = {}
        self._errors: dict[Key, float] = {}
        self.total = 0.0

    def add(self, key: Key, weight: float = 1.0) -> None:
        self.total += weight
        if key in self._counts:
            self._counts[key] += weight
            return
        if len(self._counts) < self._room:
            self._counts[key] = weight
            return
        # Of equals the one that is there longest goes: the order is that of insertion, so the same for the same input.
        lightest = min(self._counts, key=self._counts.__getitem__)
        floor = self._counts.pop(lightest)
        self._errors.pop(lightest, None)
        self._counts[key], self._errors[key] = floor + weight, floor

    def top(self, count: int) -> list[Hitter[Key]]:
        """The heaviest first."""
        order = sorted(self._counts.items(), key=lambda item: -item[1])[:count]
        return [Hitter(key, weight, self._errors.get(key, 0.0)) for key, weight in order]

    def share_of(self, count: int) -> float:
        """How much of all surely comes from the heaviest `count`, 0 to 1."""
        if not self.total:
            return 0.0
        return sum(hitter.weight - hitter.too_high_by for hitter in self.top(count)) / self.total

    def __len__(self) -> int:
        return len(self._counts)
