"""How long does what a node reported stay true?

Nodes report all their legs at once, some every slice, some every few. Between two reports a reading is only repeated,
so it is certain until the next report and no guide beyond it. This learns when that is due, for each node. Legs that
change one by one, without a report, are expected to do so as often as they did.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from causeway.routing.mesh import Mask

REPORT_SHARE = 0.3  # of a node's legs that changed at once: by chance one or two do, in a report most do
OWN_REPORTS = 4.0  # of a node, from which on its own habit counts more than that of all
_OLDEST = 64  # slices; older readings are all alike
_PATIENCE = 16  # slices without a report of a node, after which none is expected
_LEAST_CHANCE = 0.02


@dataclass(frozen=True, slots=True)
class _Counts:
    """Of readings of each age: how many there were, and how many of them the next slice replaced. [node, age]."""

    seen: NDArray[np.float64]
    replaced: NDArray[np.float64]


class Holds:
    """Ages of all nodes' readings, and at which age they are replaced."""

    def __init__(self, node_count: int) -> None:
        self._counts = _Counts(np.zeros((node_count, _OLDEST)), np.zeros((node_count, _OLDEST)))
        self._age = np.ones(node_count, dtype=np.intp)
        self._has_reported = np.zeros(node_count, dtype=np.bool_)
        self._alone = np.zeros(node_count)  # share of its legs that change in a slice without a report
        self._quiet_slices = np.zeros(node_count)
        self._slices = self._reports = 0

    def of_nodes(self, kept: NDArray[np.intp]) -> Holds:
        """Return what is known of these nodes, -1 for those that are new."""
        other, there = Holds(len(kept)), kept >= 0
        for mine, its in ((self._counts.seen, other._counts.seen), (self._counts.replaced, other._counts.replaced)):
            its[there] = mine[kept[there]]
        for name in ("_age", "_has_reported", "_alone", "_quiet_slices"):
            getattr(other, name)[there] = getattr(self, name)[kept[there]]
        other._slices, other._reports = self._slices, self._reports
        return other

    def observe(self, is_changed: Mask, is_comparable: Mask) -> Mask:
        """Take which legs differ from the slice before, of those that had a path in both; return who has reported."""
        share = is_changed.sum(axis=1) / np.maximum(1, is_comparable.sum(axis=1))
        reports: Mask = share > REPORT_SHARE
        self._slices += 1
        self._reports += int(reports.sum())
        self._quiet_slices += ~reports
        self._alone += np.where(reports, 0, (share - self._alone) / np.maximum(1, self._quiet_slices))
        age = np.minimum(self._age, _OLDEST - 1)
        dated = np.flatnonzero(self._has_reported)  # before its first report a node's age is not known
        self._counts.seen[dated, age[dated]] += 1
        self._counts.replaced[dated, age[dated]] += reports[dated]
        self._has_reported |= reports
        self._age = np.where(reports, 1, self._age + 1)
        return reports

    def replaced_next(self, horizon: int) -> NDArray[np.float64]:
        """Return how probably a reading that lived till then is replaced in each of the next slices: [node, slice]."""
        seen, replaced = self._counts.seen.sum(axis=0), self._counts.replaced.sum(axis=0)
        usual = (self._reports + 1) / (self._slices * len(self._age) + 2)  # one slice may be all there is to learn from
        of_all = (replaced + usual) / (seen + 1)
        own = (self._counts.replaced + OWN_REPORTS * of_all) / (self._counts.seen + OWN_REPORTS)
        ages = np.minimum(self._age[:, None] + np.arange(horizon), _OLDEST - 1)
        chance = np.take_along_axis(own, ages, axis=1)
        silent = usual if self._slices < _PATIENCE else _LEAST_CHANCE
        by_report = np.where(self._has_reported[:, None], chance, silent)
        either: NDArray[np.float64] = 1 - (1 - by_report) * (1 - self._alone[:, None])
        return either
