"""The few paths of each pair that an edge is told, in order: the one in use, then the best of the others.

Others keep their order while they lead anywhere, so that edges are not told anew of differences that mean nothing. So
only pairs are ranked whose choice has changed, or of which a path has failed or come about; where that is so of very
many they take turns, and those that wait have the path in use and the direct one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from causeway.routing.costs import Outlook, Pairs, pair_costs, pairs_of
from causeway.routing.mesh import Kept, Mask, of_nodes

MOST_PATHS = 4  # of a pair, the direct one among them
DIRECT_PATH, NO_PATH = -1, -2  # in place of a relay
_MOST_RANKED = 10_000  # pairs in a slice


class Ranks:
    """Of pairs [edge, application]."""

    def __init__(self, edges: int, applications: int) -> None:
        shape = (edges, applications)
        self.order = np.full((*shape, MOST_PATHS), NO_PATH, dtype=np.int16)
        self.since_s = np.zeros(shape)
        self.is_known = np.zeros(shape, dtype=np.bool_)
        self._waits = np.zeros(shape, dtype=np.bool_)  # to be ranked since its choice has changed
        self.is_new = np.zeros(edges, dtype=np.bool_)  # of an edge: that any of its pairs has another order than before

    def copy(self) -> Ranks:
        """Return what stays as it is now."""
        other = Ranks(0, 0)
        other.order, other.since_s, other.is_known = self.order.copy(), self.since_s.copy(), self.is_known.copy()
        other.is_new = self.is_new.copy()
        return other

    def of_nodes(self, kept: Kept) -> Ranks:
        """Return those of other edges and applications; where a relay is gone a pair is ranked anew."""
        other = Ranks(0, 0)
        again = np.full(len(self.order) + 2, NO_PATH, dtype=np.int16)  # the last two: no path, direct
        again[DIRECT_PATH] = DIRECT_PATH
        for new, old in enumerate(kept.sources.tolist()):
            if old >= 0:
                again[old] = new
        order = again[self.order[np.ix_(kept.sources, kept.targets)]]
        other.order = np.where(kept.pairs[:, :, None], order, np.int16(NO_PATH))
        other.since_s = of_nodes(self.since_s, kept, 0.0)
        other.is_known, other._waits = of_nodes(self.is_known, kept, False), of_nodes(self._waits, kept, False)
        other.is_new = np.ones(len(kept.sources), dtype=np.bool_)
        return other

    def follow(self, seen: Outlook, relay: NDArray[np.int16], known: Mask, at_s: float) -> Mask:
        """Have `relay` in use, -1 for direct, and the rest in order. Answers for which pairs that is another one."""
        is_other: Mask = known & (~self.is_known | (self.order[:, :, 0] != relay))
        self.is_new = is_other.any(axis=1) | (known != self.is_known).any(axis=1)
        self.since_s[is_other] = at_s
        self.order[is_other, 1:] = NO_PATH
        self.order[is_other, 1] = np.where(relay[is_other] == DIRECT_PATH, NO_PATH, DIRECT_PATH)
        self.order[:, :, 0] = relay
        self.is_known = known
        self._waits = known & (self._waits | is_other)
        stale = known & ~self._waits & self._is_stale(seen)
        left = _MOST_RANKED
        for marked in (self._waits, stale):
            for pairs in pairs_of(_first(marked, left), 1 + len(seen.relays)):
                self._rank(seen, pairs)
                left -= len(pairs[0])
        return is_other

    def _is_stale(self, seen: Outlook) -> Mask:
        """Whose other paths do not all lead somewhere, or could be more."""
        count = len(self.order)
        has_direct = np.isfinite(seen.reading_ms[:, count:]) & np.isfinite(seen.mean_ms[:, count:])
        # By what an order has in it: a relay, no path, direct.
        to_relay = np.zeros((count, count + 2), dtype=np.bool_)
        to_relay[:, seen.relays] = np.isfinite(seen.first_leg_ms[:, seen.relays])
        to_relay[np.arange(count), np.arange(count)] = False
        to_relay[:, DIRECT_PATH] = True
        there = (to_relay[:, :count].astype(np.float32) @ has_direct.astype(np.float32)).astype(np.int16)
        told = np.zeros(has_direct.shape, dtype=np.int16)
        stale = np.zeros(has_direct.shape, dtype=np.bool_)
        target = np.arange(has_direct.shape[1])
        for source, relays in enumerate(self.order):
            beyond = np.concatenate([has_direct, np.zeros((1, len(target)), np.bool_), has_direct[source][None]])
            leads = to_relay[source][relays] & beyond[relays, target[:, None]]
            told[source] = leads.sum(axis=1)
            stale[source] = (~leads & (relays >= 0))[:, 1:].any(axis=1)
        return stale | (told < np.minimum(there + has_direct, MOST_PATHS))

    def _rank(self, seen: Outlook, pairs: Pairs) -> None:
        source, target = pairs
        cost = pair_costs(seen, (source, target + len(self.order))).astype(np.float64)
        number = np.full(len(self.order) + 2, -1, dtype=np.intp)  # of a relay's candidate
        number[seen.relays] = 1 + np.arange(len(seen.relays))
        number[DIRECT_PATH] = 0
        kept = self.order[pairs]
        before = number[kept]
        before[self._waits[pairs], 1:] = -1  # it was not in any order
        place = np.arange(len(source))
        for rank in range(MOST_PATHS - 1, -1, -1):  # the first last, as it may be there twice
            there = before[:, rank] >= 0
            row, column = place[there], before[there, rank]
            if rank:
                row, column = row[np.isfinite(cost[row, column])], column[np.isfinite(cost[row, column])]
            cost[row, column] = rank - MOST_PATHS
        best = _cheapest(cost)
        found = np.concatenate([[DIRECT_PATH], seen.relays]).astype(np.int16)[best]
        found[~np.isfinite(np.take_along_axis(cost, best, axis=1))] = NO_PATH
        lacks_direct = (found != DIRECT_PATH).all(axis=1)
        end = np.minimum((found != NO_PATH).sum(axis=1), MOST_PATHS - 1)
        found[lacks_direct, end[lacks_direct]] = DIRECT_PATH
        self.order[pairs] = NO_PATH
        self.order[source, target, : found.shape[1]] = found
        self._waits[pairs] = False
        self.is_new[source[(self.order[pairs] != kept).any(axis=1)]] = True


def _cheapest(cost: NDArray[np.float64]) -> NDArray[np.intp]:
    """The candidates of each pair in order, as many as are told."""
    most = min(MOST_PATHS, cost.shape[1])
    few = np.sort(np.argpartition(cost, most - 1, axis=1)[:, :most], axis=1)
    in_order = np.argsort(np.take_along_axis(cost, few, axis=1), axis=1, kind="stable")
    cheapest: NDArray[np.intp] = np.take_along_axis(few, in_order, axis=1)
    return cheapest


def _first(pairs: Mask, most: int) -> Mask:
    """Mark no more than so many."""
    if int(pairs.sum()) <= most:
        return pairs
    found = np.zeros(pairs.shape, dtype=np.bool_)
    found.ravel()[np.flatnonzero(pairs)[:most]] = True
    return found
