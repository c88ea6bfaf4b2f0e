"""What does a leg cost when its node reports the next time? Learnt from all reports, nothing from one reading.

A round trip is the same loop from either end, so both directions speak for a leg. Levels are means of logarithms,
which one bad reading moves little. How much more than that a leg costs on average, its tail, is learnt from all legs
of its two nodes: a leg alone reports too seldom to show it.

Matrices are [from, to]. The first targets are the nodes themselves. What comes after them is measured from one end
alone, and weighs as if it had been from both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from causeway.routing.mesh import Kept, Mask, Matrix, between, of_nodes

FORGETTING = 0.05  # of what is known with each report: levels of days ago fade, a bad hour does not rule
TAIL_REPORTS = 8.0  # after so many the tail counts half: a few reports show none or one that is far too long
_MOST_SPREAD = 0.25  # variance of a logarithm; a leg with one outlier is not without any level
_LEAST_SPREAD_BETWEEN = 1e-3

Floats = NDArray[np.float64]
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of each leg's next report, in ms; infinite where none was ever measured."""

    level_ms: Matrix
    tail_ms: Matrix

    @property
    def mean_ms(self) -> Matrix:
        return self.level_ms + self.tail_ms


class Legs:
    """Fading sums over the reports of every leg."""

    def __init__(self, node_count: int, target_count: int, forgetting: float = FORGETTING) -> None:
        shape = (node_count, target_count)
        self._forgetting = forgetting
        self._reports, self._sum = np.zeros(shape), np.zeros(shape)
        self._log_sum, self._log_square_sum = np.zeros(shape), np.zeros(shape)
        self._pairs = between(*shape)

    def of_nodes(self, kept: Kept) -> Legs:
        """Return what is known of these nodes."""
        other = Legs(len(kept.sources), len(kept.targets), self._forgetting)
        for name in ("_reports", "_sum", "_log_sum", "_log_square_sum"):
            setattr(other, name, of_nodes(getattr(self, name), kept, 0.0))
        return other

    def observe(self, rtt_ms: Matrix, is_fresh: Mask) -> None:
        """Take the readings that are no repetition."""
        fresh = is_fresh & np.isfinite(rtt_ms) & self._pairs
        value = np.where(fresh, rtt_ms, 1.0).astype(np.float64)
        log = np.log(value)
        kept = np.where(fresh, 1 - self._forgetting, 1.0)
        self._reports = self._reports * kept + fresh
        self._sum = self._sum * kept + np.where(fresh, value, 0)
        self._log_sum = self._log_sum * kept + log
        self._log_square_sum = self._log_square_sum * kept + log**2

    def forecast(self) -> Forecast:
        """Say what to expect of each leg."""
        both = _either(self._reports)
        seen = (both > 0) & self._pairs
        count = np.where(seen, both, 1.0)
        reports = count / 2  # two readings of one loop are not two proofs
        level = _either(self._log_sum) / count
        mean = _either(self._sum) / count
        square = _either(self._log_square_sum) / count
        several = seen & (reports > 1)
        spread = np.where(several, (square - level**2) * reports / np.maximum(reports - 1, 0.5), 0)
        spread = np.clip(spread, 0, _MOST_SPREAD)
        level = _towards_nodes(level, spread, reports, seen)
        level_ms = np.exp(level)
        tail = np.maximum(_of_nodes(np.where(seen, np.maximum(mean - level_ms, 0), 0), seen), 0)
        tail *= reports / (reports + TAIL_REPORTS)
        return Forecast(
            np.where(seen, level_ms, np.inf).astype(np.float32),
            np.where(seen, tail, 0).astype(np.float32),
        )


def _towards_nodes(level: Floats, spread: Floats, reports: Floats, seen: Mask) -> Floats:
    """Pull a level towards what its two nodes suggest, by as much as reports differ more than legs do."""
    if not seen.any():
        return level
    suggested = _of_nodes(np.where(seen, level, 0), seen)
    noise = _mean(spread, seen)
    between_legs = _mean((level - suggested) ** 2, seen) - noise * _mean(1 / reports, seen)
    worth = noise / max(between_legs, _LEAST_SPREAD_BETWEEN)
    own: Floats = reports / (reports + worth)
    return own * level + (1 - own) * suggested


def _of_nodes(values: Floats, seen: Mask) -> Floats:
    """Fit mean + row + column; `values` are 0 where nothing was seen."""
    mean = (values.sum() + _beyond(values).sum()) / max(1, seen.sum() + _beyond(seen).sum())
    rows, columns = seen.sum(axis=1), _of_columns(seen)
    row = np.where(rows, values.sum(axis=1) / np.maximum(rows, 1), mean)
    column = np.where(columns, _of_columns(values) / np.maximum(columns, 1), mean)
    fitted: Floats = row[:, None] + column[None, :] - mean
    return fitted


def _either(values: Floats) -> Floats:
    """Both directions together."""
    square = values[:, : len(values)]
    return np.concatenate([square + square.T, 2 * _beyond(values)], axis=1)


def _beyond(values: NDArray[_T]) -> NDArray[_T]:
    """What leads to others than the nodes: the same stands below the square of the nodes, which nobody writes down."""
    return values[:, len(values) :]


def _of_columns(values: NDArray[np.generic]) -> Floats:
    square, beyond = values[:, : len(values)], _beyond(values)
    return np.concatenate([square.sum(axis=0) + beyond.sum(axis=1), beyond.sum(axis=0)])


def _mean(values: Floats, seen: Mask) -> float:
    beyond = _beyond(values)[_beyond(seen)]
    return float((values[seen].sum() + beyond.sum()) / (seen.sum() + len(beyond)))
