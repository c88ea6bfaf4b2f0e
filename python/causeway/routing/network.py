"""Routes of a network at work: readings of each slice in, ranked paths from each edge to each origin out.

Pure, time is an argument. Edges and applications are the nodes of one `Router`, the same that replays measurements;
an origin is never a relay. Pairs whose direct path nobody has measured stay on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from causeway.routing.costs import Outlook
from causeway.routing.explain import RankedPath, ranked
from causeway.routing.mesh import FLOOR_MS, Kept, Mask, Matrix, of_nodes
from causeway.routing.ranks import DIRECT_PATH, NO_PATH, Ranks
from causeway.routing.router import Router

RELAY_COST_MS = 1.0  # an edge more: 0.04 ms measured, the rest is room for one that has much to do
REST_S = 20.0  # a path that fails again and again within that is not taken meanwhile
ROUND_TRIPS = 20.0
"""Of a flow that is weighed. One more is its handshake with the origin, which only the last leg costs: connections
between edges are there. So a path may be a twentieth longer at most for what it saves at the start."""
_FIRST_SLICES = 5  # in which a pair takes what is best for nothing: other ways become known one after the other
_FORGETTING = 0.1  # a report each second: some ten of them count
_PRICE_SHARE = 0.5  # of a round trip: only flows that begin are moved, and what a slice saves is saved each second
_LEAST_MS = 0.1


Paths = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class EdgeSeen:
    """`legs_ms` by edge, `reach_ms` by application: round trips, infinite where there is no way; what is not known is
    not there. `relays`: it takes flows of others."""

    name: str
    legs_ms: Mapping[str, float]
    reach_ms: Mapping[str, float]
    relays: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """One path with what it is expected to cost: `parts_ms` adds up to `cost_ms`."""

    path: tuple[str, ...]
    cost_ms: float
    parts_ms: tuple[tuple[str, float], ...]
    round_trip_ms: float  # of its legs alone


@dataclass(frozen=True, slots=True)
class Route:
    """From one edge to the origins of one application. The first candidate is the one in use."""

    edge: str
    application: str
    candidates: tuple[Candidate, ...]
    since_s: float

    @property
    def paths(self) -> Paths:
        return tuple(candidate.path for candidate in self.candidates)

    @property
    def direct_ms(self) -> float:
        return self.direct.cost_ms

    @property
    def direct(self) -> Candidate:
        return next(candidate for candidate in self.candidates if not candidate.path)

    @property
    def over(self) -> Candidate | None:
        """The best one over other edges."""
        return next((candidate for candidate in self.candidates if candidate.path), None)


class Network:
    """Of all edges that hand each other flows."""

    def __init__(self, relay_cost_ms: float = RELAY_COST_MS) -> None:
        self._relay_cost_ms = relay_cost_ms
        self._edges: tuple[str, ...] = ()
        self._applications: tuple[str, ...] = ()
        self._router: Router | None = None
        self._known_slices: NDArray[np.int16] = np.zeros((0, 0), dtype=np.int16)  # without a gap
        self._ranks = Ranks(0, 0)

    def step(self, edges: Sequence[EdgeSeen], applications: Sequence[str], at_s: float) -> Routes:
        """Take one slice, a second or so after the one before, and answer what holds from now on."""
        names = tuple(edge.name for edge in edges)
        self._know(names, tuple(applications), tuple(edge.relays for edge in edges))
        router = self._router
        if router is None:
            return Routes((), (), None, Ranks(0, 0), np.zeros((0, 0), dtype=np.bool_))
        reading = self._reading(edges)
        known = ~np.isnan(reading)
        router.observe(np.where(known, reading, np.float32(np.inf)), is_report=True)
        router.decide(_price_ms(router), at_s, free=known & (self._known_slices < _FIRST_SLICES))
        router.stay_direct(~known)
        self._known_slices = np.where(known, np.minimum(self._known_slices, _FIRST_SLICES) + 1, 0).astype(np.int16)
        seen, count = router.outlook(), len(edges)
        changed = self._ranks.follow(seen, router.choice()[:, count:], known[:, count:], at_s)
        return Routes(self._edges, self._applications, seen, self._ranks.copy(), changed)

    def _know(self, edges: tuple[str, ...], applications: tuple[str, ...], relays: tuple[bool, ...]) -> None:
        """Be of these nodes; what was learnt of those that stay is kept."""
        may_relay = np.flatnonzero(np.array(relays, dtype=np.bool_)).astype(np.intp)
        is_same = (edges, applications) == (self._edges, self._applications)
        if len(edges) + len(applications) < 2 or not edges or not applications:
            self._router = None
        elif self._router is None:
            count = len(applications)
            self._router = Router(
                len(edges), may_relay, self._relay_cost_ms, target_count=count, rest_s=REST_S, forgetting=_FORGETTING
            )
            self._known_slices = np.zeros((len(edges), len(edges) + count), dtype=np.int16)
            self._ranks = Ranks(len(edges), count)
        elif not is_same or not np.array_equal(self._router.relays, may_relay):
            sources, others = _places(self._edges, edges), _places(self._applications, applications)
            beyond = np.where(others >= 0, others + len(self._edges), -1)
            kept = Kept(sources, np.concatenate([sources, beyond]))
            self._router = self._router.of_nodes(kept, may_relay)
            self._known_slices = of_nodes(self._known_slices, kept, 0)
            self._ranks = self._ranks.of_nodes(Kept(sources, others))
        self._edges, self._applications = edges, applications

    def _reading(self, edges: Sequence[EdgeSeen]) -> Matrix:
        """[from, to], NaN where nothing is known. A round trip between edges is the same loop from either end."""
        number = {name: at for at, name in enumerate(self._edges)}
        place = {name: at for at, name in enumerate(self._applications, len(edges))}
        reading = np.full((len(number), len(number) + len(place)), np.nan, dtype=np.float32)
        for edge in edges:
            source = number[edge.name]
            for of, into, trips in ((edge.legs_ms, number, 1.0), (edge.reach_ms, place, 1 + 1 / ROUND_TRIPS)):
                here = of if of.keys() <= into.keys() else {name: ms for name, ms in of.items() if name in into}
                at = np.fromiter(map(into.__getitem__, here), dtype=np.intp, count=len(here))
                ms = np.fromiter(here.values(), dtype=np.float32, count=len(here))
                reading[source, at] = np.maximum(ms, np.float32(_LEAST_MS)) * np.float32(trips)
            reading[source, source] = np.nan
        legs = reading[:, : len(edges)]
        legs[:] = np.where(np.isnan(legs), legs.T, legs)
        return reading


class Routes:
    """Of one slice: all pairs of an edge and an application whose direct path is known. Costs are said when asked."""

    def __init__(
        self, edges: tuple[str, ...], applications: tuple[str, ...], seen: Outlook | None, ranks: Ranks, changed: Mask
    ) -> None:
        self._edges, self._applications = edges, applications
        self._seen, self._ranks, self._changed = seen, ranks, changed
        self._number = {name: at for at, name in enumerate(edges)}

    def __len__(self) -> int:
        return int(self._ranks.is_known.sum())

    def __iter__(self) -> Iterator[Route]:
        return self._routes(self._ranks.is_known)

    def changed(self) -> Iterator[Route]:
        """Those whose flows take another path than a slice ago, and those that are new."""
        return self._routes(self._changed)

    def is_new(self, edge: str) -> bool:
        """Whether any of its ways is another than a slice ago."""
        source = self._number.get(edge)
        return source is None or bool(self._ranks.is_new[source])

    def ways(self, edge: str) -> dict[str, Paths]:
        """The ranked paths of the applications whose flows from this edge have more than the direct one."""
        source = self._number.get(edge)
        if source is None:
            return {}
        order = self._ranks.order[source]
        told = np.flatnonzero(self._ranks.is_known[source] & ((order[:, 0] != DIRECT_PATH) | (order[:, 1] != NO_PATH)))
        return {self._applications[at]: self._paths(order[at]) for at in told.tolist()}

    def _routes(self, pairs: Mask) -> Iterator[Route]:
        for source, target in np.argwhere(pairs).tolist():
            yield self._route(source, target)

    def _route(self, source: int, target: int) -> Route:
        assert self._seen
        by_path = {self._path(one.relay): one for one in ranked(self._seen, source, len(self._edges) + target)}
        candidates = tuple(self._candidate(by_path[path]) for path in self._paths(self._ranks.order[source, target]))
        since_s = float(self._ranks.since_s[source, target])
        return Route(self._edges[source], self._applications[target], candidates, since_s)

    def _paths(self, order: NDArray[np.int16]) -> Paths:
        return tuple(
            self._path(None if relay == DIRECT_PATH else relay) for relay in order.tolist() if relay != NO_PATH
        )

    def _path(self, relay: int | None) -> tuple[str, ...]:
        return () if relay is None else (self._edges[relay],)

    def _candidate(self, path: RankedPath) -> Candidate:
        count = len(self._edges)

        def name(node: int) -> str:
            return self._edges[node] if node < count else "origin"

        parts = [(f"{name(leg.source)} - {name(leg.target)}", leg.cost_ms) for leg in path.legs]
        last, ms = parts[-1]
        plain_ms = ms / (1 + 1 / ROUND_TRIPS)
        handshake_ms = 0.0 if math.isinf(ms) else ms - plain_ms
        round_trip_ms = sum(part_ms for _, part_ms in parts[:-1]) + plain_ms
        parts[-1:] = [(last, plain_ms), ("a share of the handshake", handshake_ms)]
        if path.relay is not None:
            parts += [("an edge more", path.relay_ms), ("margin", path.margin_ms)]
        return Candidate(self._path(path.relay), path.cost_ms, tuple(parts), round_trip_ms)


def _places(before: tuple[str, ...], names: tuple[str, ...]) -> NDArray[np.intp]:
    """Where each name was; -1: nowhere."""
    number = {name: at for at, name in enumerate(before)}
    return np.array([number.get(name, -1) for name in names], dtype=np.intp)


def _price_ms(router: Router) -> Matrix:
    """A share of a round trip: half of it the pair's own level, half the median of all."""
    level = router.outlook().forecast.level_ms
    known = level[np.isfinite(level)]
    of_all = np.float32(np.median(known) if known.size else FLOOR_MS)
    round_trip_ms = np.where(np.isfinite(level), (level + of_all) / 2, of_all)
    price: Matrix = (_PRICE_SHARE * round_trip_ms).astype(np.float32)
    return price
