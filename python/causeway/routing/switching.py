"""When is a better path better enough to move to?

Two speeds. Away from a path that has failed: at once, for nothing. To one that is only better: when what it saves
until the choice is expected to be made anew is more than a switch costs, and more still for a path just left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from causeway.routing.costs import Costs, Pairs
from causeway.routing.mesh import Kept, Mask, Matrix

DIRECT = 0  # the candidate that is always there
GONE = -1  # none
DAMPING = 0.5  # of the price, added for a path at the moment it was left
DAMPING_HALF_LIFE_S = 60.0  # some reports long, so that two paths that take turns are not followed at each turn
_NEVER_S = -1e9

Candidates = NDArray[np.int16]  # [from, to], or of some pairs in a row


@dataclass(slots=True)
class Held:
    """What each pair of some nodes uses, and what it left when."""

    candidate: Candidates
    left: Candidates
    left_s: NDArray[np.float64]
    has_failed: Mask
    """What was left had failed."""

    @classmethod
    def nothing(cls, sources: int, targets: int) -> Held:
        shape = (sources, targets)
        direct = np.full(shape, DIRECT, dtype=np.int16)
        left_s, has_failed = np.full(shape, _NEVER_S), np.zeros(shape, dtype=np.bool_)
        return cls(direct, np.full(shape, GONE, dtype=np.int16), left_s, has_failed)

    def of_nodes(self, kept: Kept, again: NDArray[np.int16]) -> Held:
        """Return what these nodes use; `again`: each candidate's number there, or GONE."""
        there, both = kept.pairs, np.ix_(kept.sources, kept.targets)
        left = self.left[both]
        return Held(
            np.where(there, np.maximum(again[self.candidate[both]], DIRECT), np.int16(DIRECT)),
            np.where(there & (left >= 0), again[np.maximum(left, 0)], np.int16(GONE)),
            np.where(there, self.left_s[both], _NEVER_S),
            there & self.has_failed[both],
        )

    def part(self, sources: slice) -> Held:
        """Return a view on the pairs from some nodes."""
        return Held(self.candidate[sources], self.left[sources], self.left_s[sources], self.has_failed[sources])

    def picked(self, pairs: Pairs) -> Held:
        """Return a copy of some pairs, in a row."""
        return Held(self.candidate[pairs], self.left[pairs], self.left_s[pairs], self.has_failed[pairs])

    def put(self, pairs: Pairs, picked: Held) -> None:
        """Have these pairs be as `picked` is now."""
        self.candidate[pairs], self.left[pairs] = picked.candidate, picked.left
        self.left_s[pairs], self.has_failed[pairs] = picked.left_s, picked.has_failed


def best(costs: Costs) -> Candidates:
    """The cheapest candidate of each pair; of equals the direct path, then the first."""
    cheapest: Candidates = costs.argmin(axis=1).astype(np.int16)
    return cheapest


def of(costs: Costs, candidate: Candidates) -> Matrix:
    """What each pair's candidate costs."""
    chosen: Matrix = np.take_along_axis(costs, candidate[:, None, :].astype(np.intp), axis=1)[:, 0]
    return chosen


def needed_ms(held: Held, better: Candidates, price_ms: Matrix, at_s: float, rest_s: float) -> NDArray[np.float64]:
    """What a move must save in all; no saving is enough for a path that failed less than `rest_s` ago."""
    age_s = np.maximum(at_s - held.left_s, 0)
    fading = np.exp2(-age_s / DAMPING_HALF_LIFE_S)
    needed = price_ms * (1 + DAMPING * np.where(better == held.left, fading, 0))
    return np.where((better == held.left) & held.has_failed & (age_s < rest_s), np.inf, needed)


def move(
    held: Held, costs: Costs, lasts_slices: NDArray[np.float32], price_ms: Matrix, at_s: float, rest_s: float = 0.0
) -> Mask:
    """Move every pair for which it pays, and return which they are; away from what has failed they move at once."""
    better = best(costs)
    now, then, left = of(costs, held.candidate), of(costs, better), of(costs, np.maximum(held.left, 0))
    return _move(held, Weighed(better, now, then, left), lasts_slices[:, None], price_ms, at_s, rest_s)


def move_pairs(
    held: Held, costs: NDArray[np.float32], lasts_slices: NDArray[np.float32], price_ms: NDArray[np.float32],
    at_s: float, rest_s: float,
) -> Mask:  # fmt: skip
    """The same for pairs in a row; costs are [pair, candidate]."""
    better = costs.argmin(axis=1).astype(np.int16)
    place = np.arange(len(costs))
    now, then, left = (costs[place, one] for one in (held.candidate, better, np.maximum(held.left, 0)))
    return _move(held, Weighed(better, now, then, left), lasts_slices, price_ms, at_s, rest_s)


@dataclass(frozen=True, slots=True)
class Weighed:
    """The cheapest candidate, and what that, the one in use and the one that was left last cost."""

    better: Candidates
    now_ms: Matrix
    then_ms: Matrix
    left_ms: Matrix


def _move(
    held: Held, weighed: Weighed, lasts_slices: NDArray[np.float32], price_ms: Matrix, at_s: float, rest_s: float
) -> Mask:
    better, now, then = weighed.better, weighed.now_ms, weighed.then_ms
    has_failed = np.isinf(now)
    still_fails = held.has_failed & np.isinf(weighed.left_ms)
    held.left_s[:] = np.where(still_fails, at_s, held.left_s)
    # Without any path the direct one is as good as another: it needs nobody's help to come back.
    better = np.where(np.isinf(then), np.int16(DIRECT), better)
    saved = np.where(has_failed, np.inf, np.where(np.isinf(then), 0, now - np.where(has_failed, 0, then)))
    needed = needed_ms(held, better, price_ms, at_s, rest_s)
    moves: Mask = (better != held.candidate) & (has_failed | (saved * lasts_slices > needed))
    held.has_failed[:] = np.where(moves, has_failed, held.has_failed)
    held.left[:] = np.where(moves, held.candidate, held.left)
    held.left_s[:] = np.where(moves, at_s, held.left_s)
    held.candidate[:] = np.where(moves, better, held.candidate)
    return moves
