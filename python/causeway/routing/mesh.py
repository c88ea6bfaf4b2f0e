"""What was measured between the nodes, checked once: round-trip times in ms, [slice, from, to].

Everything behind this border is float32, at least FLOOR_MS, and infinite where there was no path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

FLOOR_MS = 2.5  # 0 stands for "below 5 ms" in the recorded data: the middle of that
MOST_NODES = 30_000  # a relay's index must fit in int16

Matrix = NDArray[np.float32]
_T = TypeVar("_T", bound=np.generic)
Mask = NDArray[np.bool_]


class MalformedMesh(ValueError):
    """The measurements cannot be used; the message says which of them and why."""


def checked(rtt_ms: NDArray[np.generic]) -> Matrix:
    """Return the measurements as the rest of routing wants them, or say what is wrong."""
    if not (np.issubdtype(rtt_ms.dtype, np.floating) or np.issubdtype(rtt_ms.dtype, np.integer)):
        raise MalformedMesh(f"rtt_ms holds {rtt_ms.dtype}; it must hold real numbers, milliseconds")
    if rtt_ms.ndim != 3 or rtt_ms.shape[1] != rtt_ms.shape[2]:
        raise MalformedMesh(
            f"rtt_ms has the shape {rtt_ms.shape}; it must be [slice, from, to], square in the last two"
        )
    if not 2 <= rtt_ms.shape[1] <= MOST_NODES:
        raise MalformedMesh(f"rtt_ms is of {rtt_ms.shape[1]} nodes; it must be of 2 to {MOST_NODES}")
    with np.errstate(over="ignore"):
        values = rtt_ms.astype(np.float32)  # what is too large for it is no path
    if (values < 0).any():
        worst = np.unravel_index(np.nanargmin(values), values.shape)
        slice_, source, target = (int(index) for index in worst)
        raise MalformedMesh(f"rtt_ms[{slice_}, {source}, {target}] is {values[worst]:g}; no time is below zero")
    values = np.where(np.isnan(values), np.float32(np.inf), values)
    return np.where(values == 0, np.float32(FLOOR_MS), np.maximum(values, np.float32(0.1)))


def of_nodes(values: NDArray[_T], kept: Kept, missing: float) -> NDArray[_T]:
    """Return a matrix [from, to] for other nodes."""
    return np.where(kept.pairs, values[np.ix_(kept.sources, kept.targets)], np.asarray(missing, dtype=values.dtype))


def between(node_count: int, target_count: int | None = None) -> Mask:
    """Which entries of a matrix [from, to] are a pair of two: all but the diagonal. The first targets are the nodes
    themselves; what comes after them is only gone to.
    """
    return ~np.eye(node_count, target_count, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Kept:
    """Where the nodes and targets of a new matrix were in the one before; -1: nowhere."""

    sources: NDArray[np.intp]
    targets: NDArray[np.intp]

    @property
    def pairs(self) -> Mask:
        """Of which both were there."""
        found: Mask = (self.sources >= 0)[:, None] & (self.targets >= 0)[None]
        return found
