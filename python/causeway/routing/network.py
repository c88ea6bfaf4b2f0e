"""Routes of a network at work: readings of each slice in, ranked paths from each edge to each origin out.

Pure, time is an argument. Edges and applications are the nodes of one `Router`, the same that replays measurements;
an origin is never a relay. Pairs whose direct path nobody has measured stay on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from causeway.routing.explain import RankedPath, ranked
from causeway.routing.mesh import FLOOR_MS, Mask, Matrix, of_nodes
from causeway.routing.router import Router

RELAY_COST_MS = 1.0  # an edge more: 0.04 ms measured, the rest is room for one that has much to do
MOST_PATHS = 4  # told to an edge, direct among them
REST_S = 20.0  # a path that fails again and again within that is not taken meanwhile
ROUND_TRIPS = 20.0
"""Of a flow that is weighed. One more is its handshake with the origin, which only the last leg costs: connections
between edges are there. So a path may be a twentieth longer at most for what it saves at the start."""
_FIRST_SLICES = 5  # in which a pair takes what is best for nothing: other ways become known one after the other
_FORGETTING = 0.1  # a report each second: some ten of them count
_PRICE_SHARE = 0.5  # of a round trip: only flows that begin are moved, and what a slice saves is saved each second
_LEAST_MS = 0.1


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


@dataclass(frozen=True, slots=True)
class Route:
    """From one edge to the origins of one application. The first candidate is the one in use."""

    edge: str
    application: str
    candidates: tuple[Candidate, ...]
    since_s: float

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        return tuple(candidate.path for candidate in self.candidates)

    @property
    def direct_ms(self) -> float:
        return next(candidate.cost_ms for candidate in self.candidates if not candidate.path)


class Network:
    """Of all edges that hand each other flows."""

    def __init__(self, relay_cost_ms: float = RELAY_COST_MS) -> None:
        self._relay_cost_ms = relay_cost_ms
        self._edges: tuple[str, ...] = ()
        self._applications: tuple[str, ...] = ()
        self._router: Router | None = None
        self._known_slices: NDArray[np.int64] = np.zeros((0, 0), dtype=np.int64)  # without a gap
        self._routes: dict[tuple[str, str], Route] = {}

    def step(self, edges: Sequence[EdgeSeen], applications: Sequence[str], at_s: float) -> list[Route]:
        """Take one slice, a second or so after the one before, and answer what holds from now on."""
        names = tuple(edge.name for edge in edges)
        self._know(names, tuple(applications), tuple(edge.relays for edge in edges))
        router = self._router
        if router is None:
            self._routes = {}
            return []
        reading = self._reading(edges)
        known = ~np.isnan(reading)
        router.observe(np.where(known, reading, np.float32(np.inf)), is_report=True)
        router.decide(_price_ms(router), at_s)
        router.take_best(known & (self._known_slices < _FIRST_SLICES))
        router.stay_direct(~known)
        self._known_slices = np.where(known, self._known_slices + 1, 0)
        return self._rank(router, known, at_s)

    def _know(self, edges: tuple[str, ...], applications: tuple[str, ...], relays: tuple[bool, ...]) -> None:
        """Be of these nodes; what was learnt of those that stay is kept."""
        before = {name: number for number, name in enumerate((*self._edges, *self._applications))}
        nodes = (*edges, *applications)
        kept = np.array([before.get(name, -1) for name in nodes], dtype=np.intp)
        may_relay = np.flatnonzero(np.array(relays, dtype=np.bool_)).astype(np.intp)
        is_same = nodes == (*self._edges, *self._applications)
        if len(nodes) < 2 or not edges or not applications:
            self._router = None
        elif self._router is None:
            self._router = Router(len(nodes), may_relay, self._relay_cost_ms, rest_s=REST_S, forgetting=_FORGETTING)
            self._known_slices = np.zeros((len(nodes), len(nodes)), dtype=np.int64)
        elif not is_same or not np.array_equal(self._router.relays, may_relay):
            self._router = self._router.of_nodes(kept, may_relay)
            self._known_slices = of_nodes(self._known_slices, kept, 0)
        self._edges, self._applications = edges, applications

    def _reading(self, edges: Sequence[EdgeSeen]) -> Matrix:
        """[from, to], NaN where nothing is known. A round trip is the same loop from either end."""
        number = {name: at for at, name in enumerate(self._edges)}
        place = {name: at for at, name in enumerate(self._applications, len(edges))}
        reading = np.full((len(number) + len(place),) * 2, np.nan, dtype=np.float32)
        for edge in edges:
            source = number[edge.name]
            for of, into, trips in ((edge.legs_ms, number, 1.0), (edge.reach_ms, place, 1 + 1 / ROUND_TRIPS)):
                for name, ms in of.items():
                    if name in into and name != edge.name:
                        reading[source, into[name]] = max(ms, _LEAST_MS) * trips
        either: Matrix = np.where(np.isnan(reading), reading.T, reading)
        return either

    def _rank(self, router: Router, known: Mask, at_s: float) -> list[Route]:
        seen, choice, found = router.outlook(), router.choice(), {}
        for source, edge in enumerate(self._edges):
            for at, application in enumerate(self._applications):
                target = len(self._edges) + at
                if not known[source, target]:
                    continue
                candidates = [self._candidate(one) for one in ranked(seen, source, target)]
                first = self._path(None if choice[source, target] < 0 else int(choice[source, target]))
                before = self._routes.get((edge, application))
                found[edge, application] = _route(edge, application, first, candidates, before, at_s)
        self._routes = found
        return list(found.values())

    def _path(self, relay: int | None) -> tuple[str, ...]:
        return () if relay is None else (self._edges[relay],)

    def _candidate(self, path: RankedPath) -> Candidate:
        nodes = (*self._edges, *(["origin"] * len(self._applications)))
        parts = [(f"{nodes[leg.source]} - {nodes[leg.target]}", leg.cost_ms) for leg in path.legs]
        if parts:
            last, ms = parts[-1]
            plain_ms = ms / (1 + 1 / ROUND_TRIPS)
            handshake_ms = 0.0 if math.isinf(ms) else ms - plain_ms
            parts[-1:] = [(last, plain_ms), ("a share of the handshake", handshake_ms)]
        if path.relay is not None:
            parts += [("an edge more", path.relay_ms), ("margin", path.margin_ms)]
        return Candidate(self._path(path.relay), path.cost_ms, tuple(parts))


def _route(
    edge: str,
    application: str,
    first: tuple[str, ...],
    candidates: list[Candidate],
    before: Route | None,
    at_s: float,
) -> Route:
    """The chosen path, then the best of the others; direct is always there. Others keep their order while they lead
    anywhere, so that edges are not told anew of differences that mean nothing."""
    by_path = {candidate.path: candidate for candidate in candidates}
    is_same = before is not None and before.paths[0] == first
    order = [first]
    if before and is_same:
        order += [path for path in before.paths[1:] if path in by_path and math.isfinite(by_path[path].cost_ms)]
    order += [one.path for one in candidates if math.isfinite(one.cost_ms) and one.path not in order]
    order = [path for path in order if path in by_path][:MOST_PATHS]
    if () not in order:
        order = [*order[: MOST_PATHS - 1], ()]
    since_s = before.since_s if before and is_same else at_s
    return Route(edge, application, tuple(by_path[path] for path in order), since_s)


def _price_ms(router: Router) -> Matrix:
    """A share of a round trip: half of it the pair's own level, half the median of all."""
    level = router.outlook().forecast.level_ms
    known = level[np.isfinite(level)]
    of_all = np.float32(np.median(known) if known.size else FLOOR_MS)
    round_trip_ms = np.where(np.isfinite(level), (level + of_all) / 2, of_all)
    price: Matrix = (_PRICE_SHARE * round_trip_ms).astype(np.float32)
    return price
