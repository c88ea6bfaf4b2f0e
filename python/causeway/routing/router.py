"""Measurements in, a choice for each pair out: the one object that remembers, slice by slice.

A choice depends on what was observed before it and on nothing else: the same observations, the same choices.
Memory is bounded: candidates are weighed for some nodes at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from causeway.routing.costs import HORIZON_SLICES, Costs, Outlook, outlook, path_costs
from causeway.routing.holds import Holds
from causeway.routing.legs import FORGETTING, Legs
from causeway.routing.mesh import Mask, Matrix, between, of_nodes
from causeway.routing.switching import DIRECT, GONE, Held, best, move

TURNOVER_AT_FIRST, _TURNOVER_REPORTS = 0.5, 4.0  # until reports have shown how many choices they overturn
_TURNOVER_FADING = 0.97  # a slice
_MOST_AT_ONCE = 4_000_000  # costs in memory at a time


@dataclass(slots=True)
class _Turnover:
    """How many of the best paths are others after a report: near 1 in a volatile mesh, near 0 in a stable one."""

    overturned: float = 0.0
    reports: float = 0.0

    def share(self) -> float:
        first = TURNOVER_AT_FIRST * _TURNOVER_REPORTS
        return min(1.0, (self.overturned + first) / (self.reports + _TURNOVER_REPORTS))

    def add(self, overturned: float, reports: float) -> None:
        self.overturned = _TURNOVER_FADING * self.overturned + overturned
        self.reports = _TURNOVER_FADING * self.reports + reports


class Router:
    """Of all pairs of a mesh."""

    def __init__(
        self,
        node_count: int,
        relays: NDArray[np.intp],
        relay_cost_ms: float,
        *,
        rest_s: float = 0.0,
        forgetting: float = FORGETTING,
    ) -> None:
        """`rest_s`: so long a path that has failed is not taken again, unless the one in use fails.
        `forgetting`: of what is known of a leg with each report of it."""
        self.relays = relays
        self._rest_s, self._forgetting = rest_s, forgetting
        self._relay_cost_ms = relay_cost_ms
        self._pairs = between(node_count)
        self._holds, self._legs, self._turnover = Holds(node_count), Legs(node_count, forgetting), _Turnover()
        self._reading: Matrix | None = None
        self._reported = 0.0
        self._best: NDArray[np.int16] | None = None
        self.held = Held.nothing(node_count, node_count)

    def observe(self, rtt_ms: Matrix, *, is_report: bool = False) -> None:
        """Take one slice of checked measurements; `is_report`: all nodes have measured anew, whatever they found."""
        if self._reading is None:
            self._legs.observe(rtt_ms, self._pairs)
        else:
            differs = ((rtt_ms != self._reading) | is_report) & self._pairs
            comparable = np.isfinite(rtt_ms) & np.isfinite(self._reading) & self._pairs
            reports = self._holds.observe(differs & comparable, comparable)
            self._legs.observe(rtt_ms, differs | reports[:, None])
            self._reported = float(reports.mean())
        self._reading = rtt_ms

    def decide(self, price_ms: Matrix, at_s: float, *, is_first: bool = False) -> None:
        """Move the pairs for which it pays; the first time every pair takes what is best, for nothing."""
        seen = self.outlook()
        if is_first:
            self.held = Held.nothing(*self.held.candidate.shape)
        now_best = np.empty_like(self.held.candidate)
        for sources, costs in self._costs(seen):
            now_best[sources] = best(costs)
            held = self.held.part(sources)
            if is_first:
                held.candidate[:] = now_best[sources]
            else:
                move(held, costs, seen.lasts_slices[sources], price_ms[sources], at_s, self._rest_s)
        np.fill_diagonal(self.held.candidate, DIRECT)
        if self._best is not None:
            self._turnover.add(float((now_best != self._best)[self._pairs].mean()), self._reported)
        self._best = now_best

    def take_best(self, pairs: Mask) -> None:
        """Have these take what was best at the last decision, for nothing: it is their first choice."""
        if self._best is not None:
            self.held.candidate[:] = np.where(pairs, self._best, self.held.candidate)

    def stay_direct(self, pairs: Mask) -> None:
        """Have these take the direct path, of which nobody knows what it costs."""
        self.held.candidate[pairs] = DIRECT

    def of_nodes(self, kept: NDArray[np.intp], relays: NDArray[np.intp]) -> Router:
        """Return one that goes on with other nodes: `kept` are their numbers here, -1 for those that are new."""
        other = Router(len(kept), relays, self._relay_cost_ms, rest_s=self._rest_s, forgetting=self._forgetting)
        other._holds, other._legs = self._holds.of_nodes(kept), self._legs.of_nodes(kept)
        other._turnover, other._reported = self._turnover, self._reported
        if self._reading is not None:
            other._reading = of_nodes(self._reading, kept, np.inf)
        # Candidates are numbered by relay: what was held is found again by the node that it goes over.
        number = {int(relay): candidate for candidate, relay in enumerate(relays, 1)}
        place = {int(old): new for new, old in enumerate(kept) if old >= 0}
        again = np.full(1 + len(self.relays), GONE, dtype=np.int16)
        again[DIRECT] = DIRECT
        for candidate, relay in enumerate(self.relays, 1):
            again[candidate] = number.get(place.get(int(relay), -1), GONE)
        other.held = self.held.of_nodes(kept, again)
        return other

    def outlook(self) -> Outlook:
        """What is known now."""
        assert self._reading is not None, "nothing was observed"
        replaced = self._holds.replaced_next(HORIZON_SLICES)
        return outlook(
            self._reading, self._legs.forecast(), replaced, self._turnover.share(), self.relays, self._relay_cost_ms
        )

    def choice(self) -> NDArray[np.int16]:
        """The relay of each pair, -1 for the direct path."""
        names = np.concatenate([[-1], self.relays]).astype(np.int16)
        return names[self.held.candidate]

    def _costs(self, seen: Outlook) -> Iterator[tuple[slice, Costs]]:
        count = len(self.held.candidate)
        rows = max(1, _MOST_AT_ONCE // ((1 + len(self.relays)) * count))
        for start in range(0, count, rows):
            sources = slice(start, min(start + rows, count))
            yield sources, path_costs(seen, sources)
