"""What would routing have done with recorded measurements? A slice is decided from the slices before it.

The same code as for live measurements, and the bill: what the direct paths and the chosen ones took. No switch is
hidden: they are counted, and `price_ms` says what the rule took one to cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from causeway.routing.mesh import MalformedMesh, Matrix, between, checked
from causeway.routing.relays import chosen_relays
from causeway.routing.router import Router

SLOWER = 1.05  # a pair counts as made slower than direct from here on

Choice = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Over all pairs and all slices after the training ones. Times are means over where both had a path."""

    pairs: int
    slices: int
    relays: int
    direct_ms: float
    chosen_ms: float
    switches_per_pair: float
    relayed_share: float
    slower_share: float  # pairs whose mean is more than 5 % above that of their direct path
    direct_lost_share: float  # of pairs and slices without a path
    chosen_lost_share: float
    price_ms: float  # of one switch, the mean of all pairs

    @property
    def gain(self) -> float:
        return 1 - self.chosen_ms / self.direct_ms if self.direct_ms else 0.0


@dataclass(frozen=True, slots=True)
class Replay:
    choice: Choice  # [slice, from, to]: -1 is direct, else the relay's index; direct in all training slices
    outcome: Outcome


def replay(
    rtt_ms: NDArray[np.generic],
    train: int,
    slice_s: float,
    relay_cost_ms: float,
    relay_count: int | None = None,
    on_slice: Callable[[int, int], None] | None = None,
) -> Replay:
    """Route by recorded measurements; without `relay_count` every node may relay."""
    mesh = checked(rtt_ms)
    slices, nodes = mesh.shape[:2]
    if not 1 <= train < slices:
        raise MalformedMesh(f"{train} slices to learn from, of {slices}: there must be at least one, and one left over")
    relays = np.arange(nodes) if relay_count is None else chosen_relays(mesh[:train], relay_count, relay_cost_ms)
    router = Router(nodes, relays, relay_cost_ms)
    price_ms = switch_price_ms(mesh[:train])
    choice = np.full(mesh.shape, -1, dtype=np.int16)
    for number in range(slices):
        if number >= train:
            router.decide(price_ms, number * slice_s, is_first=number == train)
            choice[number] = router.choice()
        elif number > 1:
            router.decide(price_ms, number * slice_s)  # to learn how many choices a report overturns
        router.observe(mesh[number])
        if on_slice:
            on_slice(number + 1, slices)
    return Replay(choice, _outcome(mesh[train:], choice[train:], relay_cost_ms, len(relays), price_ms))


def switch_price_ms(training_ms: Matrix) -> Matrix:
    """One round trip: half of it the pair's own median, half that of all pairs, for few readings say little of one."""
    pairs = between(training_ms.shape[1])
    own = _median(training_ms)
    known = own[pairs & np.isfinite(own)]
    of_all = np.float32(np.median(known) if known.size else 0)
    return np.where(np.isfinite(own), (own + of_all) / 2, of_all)


def chosen_ms(rtt_ms: Matrix, choice: Choice, relay_cost_ms: float) -> Matrix:
    """What each pair's choice takes in one slice."""
    relay = np.maximum(choice, 0).astype(np.intp)
    place = np.arange(len(rtt_ms))
    relayed = rtt_ms[place[:, None], relay] + rtt_ms[relay, place[None, :]] + np.float32(relay_cost_ms)
    return np.where(choice < 0, rtt_ms, relayed)


def _median(rtt_ms: Matrix) -> Matrix:
    """Of what was measured; infinite where nothing was."""
    in_order = np.sort(rtt_ms, axis=0)
    measured = np.isfinite(in_order).sum(axis=0)
    low = np.take_along_axis(in_order, (np.maximum(measured - 1, 0) // 2)[None], axis=0)[0]
    high = np.take_along_axis(in_order, np.minimum(measured // 2, np.maximum(measured - 1, 0))[None], axis=0)[0]
    middle: Matrix = (low + high) / 2
    return middle


def _outcome(rtt_ms: Matrix, choice: Choice, relay_cost_ms: float, relays: int, price_ms: Matrix) -> Outcome:
    slices, nodes = rtt_ms.shape[:2]
    pairs = between(nodes)
    direct, chosen, both = (np.zeros((nodes, nodes)) for _ in range(3))
    lost = [0, 0]
    switches = 0
    for number, measured in enumerate(rtt_ms):
        taken = chosen_ms(measured, choice[number], relay_cost_ms)
        has_both = np.isfinite(measured) & np.isfinite(taken)
        direct += np.where(has_both, measured, 0)
        chosen += np.where(has_both, taken, 0)
        both += has_both
        lost[0] += int(np.isinf(measured[pairs]).sum())
        lost[1] += int(np.isinf(taken[pairs]).sum())
        switches += int((choice[number] != choice[number - 1])[pairs].sum()) if number else 0
    compared = max(1.0, float(both[pairs].sum()))
    count = int(pairs.sum())
    return Outcome(
        pairs=count,
        slices=slices,
        relays=relays,
        direct_ms=float(direct[pairs].sum()) / compared,
        chosen_ms=float(chosen[pairs].sum()) / compared,
        switches_per_pair=switches / count,
        relayed_share=float((choice[:, pairs] >= 0).mean()),
        slower_share=float((chosen > SLOWER * direct)[pairs].mean()),
        direct_lost_share=lost[0] / (count * slices),
        chosen_lost_share=lost[1] / (count * slices),
        price_ms=float(price_ms[pairs].mean()),
    )
