"""What a rule is measured with: what its choices took, and what an oracle that pays for its switches would have.

The oracle knows all slices and pays `price_ms` for each switch, as the rule does; its first choice is free, as the
rule's is. Priced reach is the share of the oracle's gain over direct that a rule gets.
"""

from dataclasses import dataclass

import numpy as np

SLOWER = 1.05


@dataclass(frozen=True, slots=True)
class Cut:
    """Some nodes and slices: the first `train` teach, the rest judges."""

    name: str
    rtt_ms: np.ndarray
    train: int
    slice_s: float
    relay_cost_ms: float = 1.0

    @property
    def judged(self) -> np.ndarray:
        return self.rtt_ms[self.train :]

    @property
    def pairs(self) -> np.ndarray:
        return ~np.eye(self.rtt_ms.shape[1], dtype=bool)


@dataclass(frozen=True, slots=True)
class Figures:
    reach: float
    mean_ms: float
    switches_per_pair: float
    slower_share: float


def paths(rtt_ms: np.ndarray, relay_cost_ms: float) -> np.ndarray:
    """[from, candidate, to]: candidate 0 is direct, k is relay k-1."""
    nodes = len(rtt_ms)
    costs = np.empty((nodes, nodes + 1, nodes), dtype=np.float32)
    costs[:, 0] = rtt_ms
    costs[:, 1:] = rtt_ms[:, :, None] + rtt_ms[None] + np.float32(relay_cost_ms)
    place = np.arange(nodes)
    costs[place, 1 + place] = np.inf
    costs[:, 1 + place, place] = np.inf
    return costs


def price_of_mesh(cut: Cut) -> np.ndarray:
    """One median round trip of all pairs and judged slices."""
    return np.full(cut.pairs.shape, np.median(cut.judged[:, cut.pairs]), dtype=np.float32)


def price_of_pair(cut: Cut) -> np.ndarray:
    """One median round trip of the pair's own."""
    return np.median(cut.judged, axis=0)


def oracle_ms(cut: Cut, price_ms: np.ndarray) -> np.ndarray:
    """Total of each pair over the judged slices, switches paid."""
    ahead = None
    for measured in cut.judged[::-1]:
        now = paths(measured, cut.relay_cost_ms)
        if ahead is not None:
            now += np.minimum(ahead, ahead.min(axis=1, keepdims=True) + price_ms[:, None])
        ahead = now
    return ahead.min(axis=1)


def taken_ms(cut: Cut, candidate: np.ndarray) -> np.ndarray:
    """[slice, from, to] of candidates [slice, from, to]."""
    place = np.arange(cut.rtt_ms.shape[1])
    taken = np.empty(candidate.shape, dtype=np.float64)
    for number, (measured, chosen) in enumerate(zip(cut.judged, candidate, strict=True)):
        relay = np.maximum(chosen - 1, 0)
        relayed = measured[place[:, None], relay] + measured[relay, place[None]] + cut.relay_cost_ms
        taken[number] = np.where(chosen == 0, measured, relayed)
    return taken


def figures(cut: Cut, candidate: np.ndarray, price_ms: np.ndarray, oracle_total_ms: np.ndarray) -> Figures:
    pairs, direct = cut.pairs, cut.judged.sum(axis=0, dtype=np.float64)
    taken = taken_ms(cut, candidate).sum(axis=0)
    switches = (candidate[1:] != candidate[:-1]).sum(axis=0)
    gain = (direct - taken - switches * price_ms)[pairs].sum()
    return Figures(
        reach=float(gain / (direct - oracle_total_ms)[pairs].sum()),
        mean_ms=float(taken[pairs].mean() / len(cut.judged)),
        switches_per_pair=float(switches[pairs].mean()),
        slower_share=float((taken > SLOWER * direct)[pairs].mean()),
    )
