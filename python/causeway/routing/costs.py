"""What does each path cost? In ms of round trip, as a mean over the time for which a choice is expected to last.

cost = first leg + second leg + relay + margin. A leg costs its last reading for as long as that holds, and what is
forecast from then on. Candidate 0 is the direct path, always; candidate k is the k-th relay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from causeway.routing.legs import Forecast
from causeway.routing.mesh import Mask, Matrix

HORIZON_SLICES = 16  # nothing that is known now says more about later
MARGIN_MS = (
    2.5  # that a relayed path must win by: smaller wins are as often lost again, the best of many is a lucky one
)

Costs = NDArray[np.float32]  # [from, candidate, to]
Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]  # from, to
MOST_AT_ONCE = 4_000_000  # costs in memory at a time


@dataclass(frozen=True)
class Outlook:
    """All that is known when a slice ends. Matrices are [from, to]; readings are infinite where there is no path."""

    reading_ms: Matrix
    forecast: Forecast
    holds: NDArray[np.float32]  # share of the node's horizon in which its own reading is still true
    relay_holds: Matrix  # [node, relay]: share of the node's horizon in which the relay's reading is still true
    lasts_slices: NDArray[np.float32]  # a choice of the node's, until it is expected to be made anew
    relays: NDArray[np.intp]
    relay_cost_ms: float

    @cached_property
    def mean_ms(self) -> Matrix:
        """What each leg is expected to cost once it is reported again."""
        return self.forecast.mean_ms

    @cached_property
    def first_leg_ms(self) -> Matrix:
        """A leg from the node that decides, and the whole of a direct path."""
        with np.errstate(invalid="ignore"):
            cost = self.holds[:, None] * self.reading_ms + (1 - self.holds[:, None]) * self.mean_ms
        return _usable(cost, self.reading_ms, self.mean_ms)

    @cached_property
    def beyond_relays(self) -> tuple[Mask, Matrix, Matrix]:
        """What comes behind each relay, [relay, to]: whether it leads there, what that is expected to cost with relay
        and margin, and by how much the reading differs from it."""
        reading, later = self.reading_ms[self.relays], self.mean_ms[self.relays]
        readable = np.where(np.isfinite(reading), reading, 0)
        expected = np.where(np.isfinite(later), later, 0)
        is_usable: Mask = np.isfinite(reading) & np.isfinite(later)
        return is_usable, expected + np.float32(self.relay_cost_ms + MARGIN_MS), readable - expected


def outlook(
    reading_ms: Matrix,
    forecast: Forecast,
    replaced_next: NDArray[np.float64],
    turnover: float,
    relays: NDArray[np.intp],
    relay_cost_ms: float,
) -> Outlook:
    """Weigh readings against forecasts; `turnover` is how many choices a report overturns."""
    still = np.cumprod(1 - replaced_next, axis=1)
    lasts = np.ones_like(still)
    lasts[:, 1:] = np.cumprod(1 - turnover * replaced_next[:, :-1], axis=1)
    length = lasts.sum(axis=1)
    return Outlook(
        reading_ms,
        forecast,
        ((lasts * still).sum(axis=1) / length).astype(np.float32),
        (lasts @ still.T / length[:, None]).astype(np.float32),
        length.astype(np.float32),
        relays,
        relay_cost_ms,
    )


def path_costs(seen: Outlook, sources: slice) -> Costs:
    """Cost of every candidate from some nodes to all; infinite for a loop and for what has no path now."""
    count, relays = seen.reading_ms.shape[1], seen.relays
    first_leg = seen.first_leg_ms[sources]
    is_usable, expected, differs = seen.beyond_relays
    holds = seen.relay_holds[sources][:, relays, None]
    costs = np.empty((len(first_leg), 1 + len(relays), count), dtype=np.float32)
    costs[:, 0] = first_leg
    relayed = costs[:, 1:]
    relayed[:] = holds * differs[None]
    relayed += expected[None]
    relayed += np.where(np.isfinite(first_leg[:, relays]), first_leg[:, relays], np.inf)[:, :, None]
    relayed[:, ~is_usable] = np.inf
    place = np.arange(len(seen.reading_ms))
    for number, relay in enumerate(relays):
        relayed[:, number, relay] = np.inf
        relayed[place[sources] == relay, number] = np.inf
    return costs


def pair_costs(seen: Outlook, pairs: Pairs) -> NDArray[np.float32]:
    """Cost of every candidate of some pairs, [pair, candidate], as `path_costs` has it of all."""
    source, target = pairs
    relays, first_leg = seen.relays, seen.first_leg_ms
    is_usable, expected, differs = seen.beyond_relays
    costs = np.empty((len(source), 1 + len(relays)), dtype=np.float32)
    costs[:, 0] = first_leg[source, target]
    relayed = costs[:, 1:]
    relayed[:] = seen.relay_holds[source[:, None], relays] * differs[:, target].T
    relayed += expected[:, target].T
    own = first_leg[source[:, None], relays]
    relayed += np.where(np.isfinite(own), own, np.inf)
    relayed[~is_usable[:, target].T] = np.inf
    relayed[(relays == source[:, None]) | (relays == target[:, None])] = np.inf
    return costs


def beyond_relays_ms(seen: Outlook) -> Matrix | None:
    """What a path costs from each relay on, [relay, to], where that is the same whoever's path it is; else None."""
    relays = seen.relays
    holds = seen.relay_holds[:, relays]
    if not len(relays) or (holds != holds[:1]).any():
        return None
    is_usable, expected, differs = seen.beyond_relays
    rest: Matrix = holds[0][:, None] * differs + expected
    rest[~is_usable] = np.inf
    rest[np.arange(len(relays)), relays] = np.inf
    return rest


def least_costs(seen: Outlook, beyond_ms: Matrix, sources: slice) -> Matrix:
    """Cost of the cheapest candidate from some nodes to all; which one it is takes much longer to find."""
    first_leg = seen.first_leg_ms[sources]
    least, relayed = first_leg.copy(), np.empty_like(first_leg)
    to_relay = first_leg[:, seen.relays].copy()
    to_relay[seen.relays == np.arange(len(seen.reading_ms))[sources, None]] = np.inf
    for number, rest in enumerate(beyond_ms):
        np.add(to_relay[:, number, None], rest, out=relayed)
        np.minimum(least, relayed, out=least)
    return least


def pairs_of(marked: Mask, candidates: int, first_source: int = 0) -> Iterator[Pairs]:
    """Those that are marked, so many at a time that the costs of so many candidates fit."""
    source, target = np.nonzero(marked)
    at_once = max(1, MOST_AT_ONCE // candidates)
    for start in range(0, len(source), at_once):
        part = slice(start, start + at_once)
        yield source[part] + first_source, target[part]


def _usable(cost: Matrix, reading_ms: Matrix, mean_ms: Matrix) -> Matrix:
    return np.where(np.isfinite(reading_ms) & np.isfinite(mean_ms), cost, np.float32(np.inf))
