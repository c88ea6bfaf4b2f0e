"""What edges count becomes one reading of each leg for each slice: milliseconds, infinite where it leads nowhere.

Pure, time is an argument. A leg that was not measured lately has no reading at all, which is not the same as failing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from causeway.model.report import LegSeen, ReachSeen, Steering

STALE_S = 120.0  # what was measured before that says nothing any more
SYN_AGAIN_MS = 1_000.0  # a lost SYN costs that (RFC 6298, 2.1)
_REMEMBERED = 32.0  # connections, over which losses are averaged
_FORGOTTEN_S = 10.0  # and seconds, where there are few
_CLEAN = 8.0  # so many without a loss are taken for granted: one of one is no rate
_LATE_AFTER_MS = 10_000  # answers come every second, or every four; what is late is said to be down


@dataclass(slots=True)
class _Reach:
    """Of one application's origins from one edge. Sums fade."""

    told: ReachSeen
    rtt_ms: float = math.nan
    at_s: float = -math.inf
    connects: float = 0.0
    lost: float = 0.0

    def take(self, told: ReachSeen, at_s: float) -> None:
        before = (
            self.told if told.connects >= self.told.connects and told.failed >= self.told.failed else _nothing(told)
        )
        connects, failed = told.connects - before.connects, told.failed - before.failed
        retransmitted = told.retransmitted - before.retransmitted
        self.told = told
        if connects == failed == 0:
            return
        kept = math.exp(-(connects + failed) / _REMEMBERED - (at_s - self.at_s) / _FORGOTTEN_S)
        self.at_s = at_s
        self.connects, self.lost = self.connects * kept + connects, self.lost * kept + retransmitted
        if clean := connects - retransmitted:
            self.rtt_ms = (told.rtt_us_total - before.rtt_us_total) / clean / 1000
        if failed and not connects:
            self.rtt_ms = math.inf
        elif math.isinf(self.rtt_ms):
            self.rtt_ms = math.nan  # it leads there again, and how far it is will show

    def reading_ms(self, at_s: float) -> float | None:
        if at_s - self.at_s > STALE_S or math.isnan(self.rtt_ms):
            return None
        return self.rtt_ms + SYN_AGAIN_MS * self.lost / (self.connects + _CLEAN)


@dataclass(slots=True)
class Readings:
    """Of every edge, from one slice to the next."""

    _reach: dict[tuple[str, str], _Reach] = field(default_factory=dict)
    _legs: dict[str, dict[str, float]] = field(default_factory=dict)

    def take(self, edge: str, told: Steering, at_s: float) -> None:
        self._legs[edge] = {leg.edge: _leg_ms(leg) for leg in told.legs if leg.answers or leg.is_down}
        for one in told.reach:
            known = self._reach.setdefault((edge, one.application), _Reach(_nothing(one)))
            if one.age_ms <= STALE_S * 1000:
                known.take(one, at_s)

    def forget(self, edges: set[str], applications: set[str]) -> None:
        """All but these are gone."""
        self._legs = {edge: legs for edge, legs in self._legs.items() if edge in edges}
        self._reach = {key: one for key, one in self._reach.items() if key[0] in edges and key[1] in applications}

    def legs_ms(self, edge: str) -> Mapping[str, float]:
        """By the edge at the other end."""
        return self._legs.get(edge, {})

    def reach_ms(self, edge: str, application: str, at_s: float) -> float | None:
        known = self._reach.get((edge, application))
        return known.reading_ms(at_s) if known else None


def _leg_ms(leg: LegSeen) -> float:
    return math.inf if leg.is_down or leg.age_ms > _LATE_AFTER_MS else leg.rtt_us / 1000


def _nothing(of: ReachSeen) -> ReachSeen:
    return ReachSeen(of.application, 0, 0, 0, 0, of.age_ms)
