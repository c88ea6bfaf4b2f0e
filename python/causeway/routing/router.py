"""Measurements in, a choice for each pair out: the one object that remembers, slice by slice.

A choice depends on what was observed before it and on nothing else: the same observations, the same choices.
Memory is bounded: candidates are weighed for some nodes at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from causeway.routing.costs import (
    HORIZON_SLICES,
    MOST_AT_ONCE,
    Costs,
    Outlook,
    beyond_relays_ms,
    least_costs,
    outlook,
    pair_costs,
    pairs_of,
    path_costs,
)
from causeway.routing.holds import Holds
from causeway.routing.legs import FORGETTING, Legs
from causeway.routing.mesh import Kept, Mask, Matrix, between, of_nodes
from causeway.routing.switching import DIRECT, GONE, Held, best, move, move_pairs

TURNOVER_AT_FIRST, _TURNOVER_REPORTS = 0.5, 4.0  # until reports have shown how many choices they overturn
_TURNOVER_FADING = 0.97  # a slice
_IN_CACHE = 100_000  # pairs
_SAMPLE = 5_000  # pairs


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
        target_count: int = 0,
        rest_s: float = 0.0,
        forgetting: float = FORGETTING,
    ) -> None:
        """`target_count`: of those that flows go to besides the nodes. `rest_s`: so long a path that has failed is not
        taken again, unless the one in use fails. `forgetting`: of what is known of a leg with each report of it."""
        shape = (node_count, node_count + target_count)
        self.relays = relays
        self._rest_s, self._forgetting = rest_s, forgetting
        self._relay_cost_ms = relay_cost_ms
        self._pairs = between(*shape)
        self._holds, self._legs, self._turnover = Holds(node_count), Legs(*shape, forgetting), _Turnover()
        self._reading: Matrix | None = None
        self._seen: Outlook | None = None
        self._reports_always = False
        self._reported = 0.0
        self._best: NDArray[np.int16] | None = None
        self.held = Held.nothing(*shape)

    def observe(self, rtt_ms: Matrix, *, is_report: bool = False) -> None:
        """Take one slice of checked measurements; `is_report`: all nodes have measured anew, whatever they found, and
        will do so in each slice."""
        self._seen, self._reports_always = None, is_report
        if is_report or self._reading is None:
            self._legs.observe(rtt_ms, self._pairs)
            self._reported = 1.0
        else:
            differs = (rtt_ms != self._reading) & self._pairs
            comparable = np.isfinite(rtt_ms) & np.isfinite(self._reading) & self._pairs
            reports = self._holds.observe(differs & comparable, comparable)
            self._legs.observe(rtt_ms, differs | reports[:, None])
            self._reported = float(reports.mean())
        self._reading = rtt_ms

    def decide(self, price_ms: Matrix, at_s: float, *, is_first: bool = False, free: Mask | None = None) -> None:
        """Move the pairs for which it pays; `free` ones take what is best for nothing, as it is their first choice.
        `is_first`: all of them do."""
        seen = self.outlook()
        if is_first:
            self.held = Held.nothing(*self.held.candidate.shape)
        are_many = self._reports_always and self._pairs.size * len(self.relays) > MOST_AT_ONCE
        beyond_ms = beyond_relays_ms(seen) if are_many else None
        if beyond_ms is None or is_first:
            self._decide_each(seen, price_ms, at_s, is_first=is_first, free=free)
        else:
            self._decide_many(seen, beyond_ms, price_ms, at_s, free)
        np.fill_diagonal(self.held.candidate, DIRECT)

    def _decide_each(self, seen: Outlook, price_ms: Matrix, at_s: float, *, is_first: bool, free: Mask | None) -> None:
        """Weigh every candidate of every pair."""
        now_best = np.empty_like(self.held.candidate)
        for sources, costs in self._costs(seen):
            now_best[sources] = best(costs)
            held = self.held.part(sources)
            if is_first:
                held.candidate[:] = now_best[sources]
            else:
                move(held, costs, seen.lasts_slices[sources], price_ms[sources], at_s, self._rest_s)
        if free is not None:
            self.held.candidate[:] = np.where(free, now_best, self.held.candidate)
        self._note_turnover(now_best, self._pairs)

    def _decide_many(self, seen: Outlook, beyond_ms: Matrix, price_ms: Matrix, at_s: float, free: Mask | None) -> None:
        """Find out what the cheapest candidate costs, and which it is only where that might move a pair. How many
        choices are overturned is told by some pairs, always the same."""
        for sources in self._parts():
            held = self.held.part(sources)
            now_ms = _held_ms(seen, beyond_ms, held.candidate, sources)
            least_ms = least_costs(seen, beyond_ms, sources)
            with np.errstate(invalid="ignore"):
                saves_ms = (now_ms - least_ms) * seen.lasts_slices[sources, None]
            may_move = np.isinf(now_ms) & np.isfinite(least_ms) | (saves_ms > price_ms[sources]) | held.has_failed
            if free is not None:
                may_move |= free[sources] & (least_ms < now_ms)
            may_move &= self._pairs[sources]
            for pairs in pairs_of(may_move, 1 + len(self.relays), sources.start):
                costs, picked = pair_costs(seen, pairs), self.held.picked(pairs)
                move_pairs(picked, costs, seen.lasts_slices[pairs[0]], price_ms[pairs], at_s, self._rest_s)
                if free is not None:
                    cheapest = costs.argmin(axis=1).astype(np.int16)
                    picked.candidate[:] = np.where(free[pairs], cheapest, picked.candidate)
                self.held.put(pairs, picked)
        every = 1 + self._pairs.size // _SAMPLE
        source, target = np.unravel_index(np.arange(0, self._pairs.size, every), self._pairs.shape)
        sample = source, target
        now_best = pair_costs(seen, sample).argmin(axis=1).astype(np.int16)
        self._note_turnover(now_best, self._pairs[sample])

    def _note_turnover(self, now_best: NDArray[np.int16], of: Mask) -> None:
        if self._best is not None and self._best.shape == now_best.shape:
            self._turnover.add(float((now_best != self._best)[of].mean()), self._reported)
        self._best = now_best

    def stay_direct(self, pairs: Mask) -> None:
        """Have these take the direct path, of which nobody knows what it costs."""
        self.held.candidate[pairs] = DIRECT

    def of_nodes(self, kept: Kept, relays: NDArray[np.intp]) -> Router:
        """Return one that goes on with other nodes."""
        count = len(kept.sources)
        other = Router(
            count,
            relays,
            self._relay_cost_ms,
            target_count=len(kept.targets) - count,
            rest_s=self._rest_s,
            forgetting=self._forgetting,
        )
        other._holds, other._legs = self._holds.of_nodes(kept.sources), self._legs.of_nodes(kept)
        other._turnover, other._reported = self._turnover, self._reported
        if self._reading is not None:
            other._reading = of_nodes(self._reading, kept, np.inf)
        # Candidates are numbered by relay: what was held is found again by the node that it goes over.
        number = {int(relay): candidate for candidate, relay in enumerate(relays, 1)}
        place = {int(old): new for new, old in enumerate(kept.sources) if old >= 0}
        again = np.full(1 + len(self.relays), GONE, dtype=np.int16)
        again[DIRECT] = DIRECT
        for candidate, relay in enumerate(self.relays, 1):
            again[candidate] = number.get(place.get(int(relay), -1), GONE)
        other.held = self.held.of_nodes(kept, again)
        return other

    def outlook(self) -> Outlook:
        """What is known now, by all that was observed."""
        assert self._reading is not None, "nothing was observed"
        if self._seen is None:
            if self._reports_always:
                replaced = np.ones((len(self._reading), HORIZON_SLICES))
            else:
                replaced = self._holds.replaced_next(HORIZON_SLICES)
            forecast, turnover = self._legs.forecast(), self._turnover.share()
            self._seen = outlook(self._reading, forecast, replaced, turnover, self.relays, self._relay_cost_ms)
        return self._seen

    def choice(self) -> NDArray[np.int16]:
        """The relay of each pair, -1 for the direct path."""
        names = np.concatenate([[-1], self.relays]).astype(np.int16)
        return names[self.held.candidate]

    def _costs(self, seen: Outlook) -> Iterator[tuple[slice, Costs]]:
        count, targets = self.held.candidate.shape
        rows = max(1, MOST_AT_ONCE // ((1 + len(self.relays)) * targets))
        for start in range(0, count, rows):
            sources = slice(start, min(start + rows, count))
            yield sources, path_costs(seen, sources)

    def _parts(self) -> Iterator[slice]:
        """Nodes whose pairs fit into a processor's cache together."""
        count, targets = self.held.candidate.shape
        rows = max(1, _IN_CACHE // targets)
        for start in range(0, count, rows):
            yield slice(start, min(start + rows, count))


def _held_ms(seen: Outlook, beyond_ms: Matrix, candidate: NDArray[np.int16], sources: slice) -> Matrix:
    """What the candidates in use cost."""
    first_leg = seen.first_leg_ms[sources]
    relay = np.maximum(candidate, 1).astype(np.intp) - 1
    place, target = np.arange(len(first_leg))[:, None], np.arange(first_leg.shape[1])
    relayed = first_leg[place, seen.relays[relay]] + beyond_ms[relay, target]
    found: Matrix = np.where(candidate == DIRECT, first_leg, relayed)
    return found
