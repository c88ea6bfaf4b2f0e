"""What smart routing is worth: how long flows over other edges wait for their first byte, and those that go direct.

Pure, time is an argument. One flow of 64 goes direct whatever is best, so both are of the same minutes. What is gained
has two parts. Every round trip is shorter by what the way saves, as its legs are measured; the start of a flow is
shorter by more than that, as connections between edges are there already.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field, replace

from causeway.model.report import FirstBytes, GainsSeen

WINDOW_S = 600.0
BUCKETS = 56
UPPER_MS = tuple(2 ** (number / 4) for number in range(BUCKETS - 1))
"""Bounds of all but the last, which has what took longer."""
LEAST_FLOWS = 8  # of each kind, for a comparison
_MARK_S = 30.0

Saved = Callable[[], "float | None"]
"""Round trip direct less that of the way in use, in ms; none: one of them is not known."""


@dataclass(slots=True)
class _Times:
    flows: Counter[int] = field(default_factory=Counter)
    ms: int = 0

    def since(self, before: _Times) -> _Times:
        return _Times(self.flows - before.flows, self.ms - before.ms)

    def add(self, other: _Times) -> None:
        self.flows.update(other.flows)
        self.ms += other.ms

    def copy(self) -> _Times:
        return _Times(self.flows.copy(), self.ms)


@dataclass(slots=True)
class _Sums:
    direct: _Times = field(default_factory=_Times)
    over: _Times = field(default_factory=_Times)
    compared: int = 0  # flows over other edges of which it is known what each round trip saves
    saved_ms: float = 0.0

    def copy(self) -> _Sums:
        return replace(self, direct=self.direct.copy(), over=self.over.copy())

    def since(self, before: _Sums) -> _Sums:
        compared, saved_ms = self.compared - before.compared, self.saved_ms - before.saved_ms
        return _Sums(self.direct.since(before.direct), self.over.since(before.over), compared, saved_ms)


@dataclass(slots=True)
class _Pair:
    told: tuple[_Times, _Times] | None = None  # direct and over other edges, as the edge has counted since its start
    sums: _Sums = field(default_factory=_Sums)
    marks: deque[tuple[float, _Sums]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class FirstByteTimes:
    """In milliseconds; none where there was no flow. `histogram`: flows by bucket."""

    flows: int
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gain:
    """From one edge to the origins of one application. Means of a flow, in milliseconds: `total_ms` of its first byte,
    of which `routing_ms` is what every round trip saves, and the rest is saved once. None: `why_not` says why."""

    edge: str
    application: str
    direct: FirstByteTimes
    over: FirstByteTimes
    total_ms: float | None
    routing_ms: float | None
    why_not: str | None

    @property
    def connections_ms(self) -> float | None:
        return None if self.total_ms is None or self.routing_ms is None else self.total_ms - self.routing_ms


class Gains:
    """Of every edge and application, of the last minutes."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], _Pair] = {}

    def take(self, edge: str, told: GainsSeen, at_s: float, saved: Saved) -> None:
        """Take what an edge has counted up to now."""
        pair = self._pairs.setdefault((edge, told.application), _Pair())
        direct, over = _times(told.direct), _times(told.over)
        before = pair.told or (direct, over)  # what was counted before this is not of these minutes
        if before[0].flows.total() > direct.flows.total() or before[1].flows.total() > over.flows.total():
            before = _Times(), _Times()  # it was started anew
        pair.told = direct, over
        new_direct, new_over = direct.since(before[0]), over.since(before[1])
        pair.sums.direct.add(new_direct)
        pair.sums.over.add(new_over)
        flows = new_over.flows.total()
        if flows and (saved_ms := saved()) is not None:
            pair.sums.compared += flows
            pair.sums.saved_ms += flows * saved_ms
        if not pair.marks or at_s - pair.marks[-1][0] >= _MARK_S:
            pair.marks.append((at_s, pair.sums.copy()))
        while len(pair.marks) > 1 and at_s - pair.marks[0][0] > WINDOW_S:
            pair.marks.popleft()

    def forget(self, edges: Set[str], applications: Set[str]) -> None:
        """All but these are gone."""
        self._pairs = {key: one for key, one in self._pairs.items() if key[0] in edges and key[1] in applications}

    def __iter__(self) -> Iterator[Gain]:
        for (edge, application), pair in list(self._pairs.items()):
            yield _gain(edge, application, pair.sums.since(pair.marks[0][1]) if pair.marks else _Sums())


def _times(told: FirstBytes) -> _Times:
    return _Times(Counter({int(bucket): flows for bucket, flows in told.flows.items()}), told.ms)


def _gain(edge: str, application: str, sums: _Sums) -> Gain:
    direct, over = _shown(sums.direct), _shown(sums.over)
    total_ms = routing_ms = why_not = None
    if over.flows < LEAST_FLOWS:
        why_not = f"{over.flows} flows have gone over other edges; a comparison takes {LEAST_FLOWS}"
    elif direct.flows < LEAST_FLOWS:
        why_not = f"{direct.flows} flows have gone direct; a comparison takes {LEAST_FLOWS}"
    elif direct.mean_ms is not None and over.mean_ms is not None:
        total_ms = direct.mean_ms - over.mean_ms
        routing_ms = sums.saved_ms / sums.compared if sums.compared else None
    return Gain(edge, application, direct, over, total_ms, routing_ms, why_not)


def _shown(times: _Times) -> FirstByteTimes:
    flows = times.flows.total()
    histogram = tuple(times.flows.get(bucket, 0) for bucket in range(BUCKETS))
    mean_ms = times.ms / flows if flows else None
    return FirstByteTimes(flows, mean_ms, quantile_ms(histogram, 0.5), quantile_ms(histogram, 0.95), histogram)


def quantile_ms(histogram: tuple[int, ...], share: float) -> float | None:
    """Between the bounds of its bucket, by how far; of what took longer than all bounds, the last bound."""
    left = share * sum(histogram)
    if not left:
        return None
    for bucket, flows in enumerate(histogram[:-1]):
        if flows >= left:
            return float(2 ** ((bucket - 1 + left / flows) / 4)) if bucket else 1.0
        left -= flows
    return UPPER_MS[-1]
