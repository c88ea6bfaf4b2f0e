"""Which few nodes are worth being relays for all pairs together? Chosen greedily: each adds most to those before it."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from causeway.routing.mesh import Matrix, between

SAMPLES = 8  # slices looked at, evenly spread: what a relay is good for in bad hours counts as well


def chosen_relays(rtt_ms: Matrix, count: int, relay_cost_ms: float) -> NDArray[np.intp]:
    """Choose relays by [slice, from, to] alone; they come in the order of their indices."""
    slices, nodes = rtt_ms.shape[:2]
    picked = np.unique(np.linspace(0, slices - 1, min(slices, SAMPLES)).round().astype(np.intp))
    itself = ~between(nodes)
    samples = np.where(itself, np.float32(np.inf), rtt_ms[picked])  # so no path goes through its own ends
    best = np.where(np.isfinite(samples), samples, _cut_off_ms(samples))
    best[:, itself] = 0  # nor is anything to be won from a node to itself
    # What a relay adds only shrinks as others are chosen, so an old figure is a bound: most need no new look.
    bounds = [(-_added_ms(samples, best, node, relay_cost_ms), node, 0) for node in range(nodes)]
    heapq.heapify(bounds)
    chosen: list[int] = []
    while bounds and len(chosen) < count:
        _, node, known_at = heapq.heappop(bounds)
        if known_at < len(chosen):
            heapq.heappush(bounds, (-_added_ms(samples, best, node, relay_cost_ms), node, len(chosen)))
            continue
        chosen.append(node)
        np.minimum(best, _via(samples, node, relay_cost_ms), out=best)
    return np.array(sorted(chosen), dtype=np.intp)


def _via(samples: Matrix, node: int, relay_cost_ms: float) -> Matrix:
    return samples[:, :, node, None] + samples[:, None, node, :] + np.float32(relay_cost_ms)


def _added_ms(samples: Matrix, best: Matrix, node: int, relay_cost_ms: float) -> float:
    gain = best - _via(samples, node, relay_cost_ms)
    return float(np.maximum(gain, 0, out=gain).sum(dtype=np.float64))


def _cut_off_ms(samples: Matrix) -> np.float32:
    """What having no path counts as: the longest that was measured."""
    measured = samples[np.isfinite(samples)]
    return np.float32(measured.max() if measured.size else 1)
