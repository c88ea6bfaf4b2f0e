"""What smart routing is worth: waits for a first byte of the last minutes, over other edges beside direct ones.

Pure, time is an argument. Edges count since they started; what came lately is kept in slots, and slots are forgotten.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from causeway.model.report import GainsSeen, WaitsSeen
from causeway.model.waits import Waits, joined

WINDOW_S = 600.0
LEAST = 20  # flows of each kind, below which a comparison says nothing
_SLOT_S = 30.0


@dataclass(frozen=True, slots=True)
class Gain:
    """What a flow gains by going over other edges, of the mean, the median and the 95th percentile of what flows took.

    `routing_ms`: its way is shorter, by one round trip. `connection_ms`: the rest of the mean. The handshake that it
    waits for is that with the origin from an edge near it, for connections between edges are ready. `reason`: why there
    is no number.
    """

    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    routing_ms: float | None = None
    connection_ms: float | None = None
    reason: str | None = None


@dataclass(slots=True)
class _Slot:
    number: int
    direct: Waits = field(default_factory=Waits)
    over: Waits = field(default_factory=Waits)


@dataclass(slots=True)
class _Pair:
    direct: Waits
    over: Waits
    slots: deque[_Slot] = field(default_factory=lambda: deque(maxlen=math.ceil(WINDOW_S / _SLOT_S)))


@dataclass(slots=True)
class Gains:
    """Of every edge and application that has had such flows. One thread takes, others may ask."""

    _pairs: dict[tuple[str, str], _Pair] = field(default_factory=dict)
    _edges: set[str] = field(default_factory=set)

    def take(self, edge: str, told: list[GainsSeen], at_s: float) -> None:
        """What an edge has counted so far; what it had when it was first heard of is of an unknown time."""
        for one in told:
            counted = _waits(one.direct), _waits(one.over)
            key = (edge, one.application)
            if key not in self._pairs:
                self._pairs[key] = _Pair(*((Waits(), Waits()) if edge in self._edges else counted))
            _note(self._pairs[key], *counted, int(at_s // _SLOT_S))
        self._edges.add(edge)

    def forget(self, edges: set[str]) -> None:
        """All but these are gone."""
        if self._edges - edges:
            self._edges &= edges
            self._pairs = {key: pair for key, pair in self._pairs.items() if key[0] in edges}

    def of(
        self, edge: str, application: str, at_s: float, direct_ms: float | None, over_ms: float | None
    ) -> tuple[Waits, Waits, Gain]:
        """Of the last ten minutes, direct and over others, and what that is worth.

        `direct_ms` and `over_ms` are round trips as they are measured, with no margin; none or infinite: there is none.
        """
        pair, oldest = self._pairs.get((edge, application)), int((at_s - WINDOW_S) // _SLOT_S)
        slots = [slot for slot in list(pair.slots) if slot.number > oldest] if pair else []
        direct, over = joined(slot.direct for slot in slots), joined(slot.over for slot in slots)
        return direct, over, _gain(direct, over, direct_ms, over_ms)


def _note(pair: _Pair, direct: Waits, over: Waits, number: int) -> None:
    """An edge that was started anew counts from nothing."""
    new_direct, new_over = direct.since(pair.direct) or direct, over.since(pair.over) or over
    pair.direct, pair.over = direct, over
    if not new_direct.counts and not new_over.counts:
        return
    if not pair.slots or pair.slots[-1].number != number:
        pair.slots.append(_Slot(number))
    slot = pair.slots[-1]
    slot.direct, slot.over = joined((slot.direct, new_direct)), joined((slot.over, new_over))


def _gain(direct: Waits, over: Waits, direct_ms: float | None, over_ms: float | None) -> Gain:
    for what, waits in (("over other edges", over), ("direct", direct)):
        if waits.count < LEAST:
            flows = f"{waits.count} flow{'' if waits.count == 1 else 's'} {what} in ten minutes"
            return Gain(reason=f"too few to compare: {flows}, and {LEAST} are needed")
    mean_ms = (direct.mean_ms or 0.0) - (over.mean_ms or 0.0)
    p50_ms, p95_ms = ((direct.quantile_ms(at) or 0.0) - (over.quantile_ms(at) or 0.0) for at in (0.5, 0.95))
    if direct_ms is None or over_ms is None or not math.isfinite(direct_ms) or not math.isfinite(over_ms):
        return Gain(mean_ms, p50_ms, p95_ms, reason="how long the ways themselves take is not known now")
    routing_ms = direct_ms - over_ms
    return Gain(mean_ms, p50_ms, p95_ms, routing_ms, mean_ms - routing_ms)


def _waits(told: WaitsSeen | None) -> Waits:
    return Waits(told.total_us, dict(told.counts)) if told else Waits()
