"""Why this path: every candidate of one pair in order, with the parts that its cost is the sum of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from causeway.routing.costs import MARGIN_MS, Outlook, pair_costs


@dataclass(frozen=True, slots=True)
class Leg:
    """One leg: its last reading, what is forecast, and how long the reading is believed."""

    source: int
    target: int
    reading_ms: float
    forecast_ms: float
    holds: float  # share of the time that the reading stays true

    @property
    def cost_ms(self) -> float:
        if not (np.isfinite(self.reading_ms) and np.isfinite(self.forecast_ms)):
            return float("inf")
        return self.holds * self.reading_ms + (1 - self.holds) * self.forecast_ms


@dataclass(frozen=True, slots=True)
class RankedPath:
    """One candidate. `cost_ms` is the legs, the relay and the margin, added up."""

    relay: int | None
    legs: tuple[Leg, ...]
    relay_ms: float
    margin_ms: float
    cost_ms: float


def ranked(seen: Outlook, source: int, target: int) -> list[RankedPath]:
    """Return the candidates of a pair, cheapest first; direct is always among them, what has no path is last."""
    [costs] = pair_costs(seen, (np.array([source]), np.array([target])))
    found = []
    for candidate in np.argsort(costs, kind="stable"):
        relay = None if candidate == 0 else int(seen.relays[candidate - 1])
        if relay in (source, target):
            continue
        cost_ms = float(costs[candidate])
        legs = _legs(seen, source, target, relay)
        relay_ms = 0.0 if relay is None else seen.relay_cost_ms
        margin_ms = 0.0 if relay is None else MARGIN_MS
        found.append(RankedPath(relay, legs, relay_ms, margin_ms, cost_ms))
    return found


def _legs(seen: Outlook, source: int, target: int, relay: int | None) -> tuple[Leg, ...]:
    mean = seen.mean_ms

    def leg(start: int, end: int, holds: float) -> Leg:
        return Leg(start, end, float(seen.reading_ms[start, end]), float(mean[start, end]), holds)

    own = float(seen.holds[source])
    if relay is None:
        return (leg(source, target, own),)
    return leg(source, relay, own), leg(relay, target, float(seen.relay_holds[source, relay]))
