"""What is held of an application beyond rules: each part for as long as it is needed, and a while longer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from causeway.guard.rules import HOLD_MS, HoldTimes
from causeway.model.mitigation import Hold, Rate

Part = Literal["cookies", "state", "no_fragments", "rates"]
_CALM_MS = 2_000  # since it was last needed: this flood, or this pulse of one, is over


@dataclass(slots=True)
class _Needed:
    last_ms: int
    hold_ms: int
    rates: tuple[Rate, ...] = ()
    is_calm: bool = False  # not needed just now: there is nobody to share with fairly

    @property
    def planned_rates(self) -> list[Rate]:
        """In calm many may share one address. What there is for all stays the same: a pulse meets it at once."""
        return [rate for rate in self.rates if not self.is_calm or not rate.ipv4]


@dataclass(slots=True)
class Holds:
    """Of all applications of an edge."""

    _needed: dict[tuple[str, Part], _Needed] = field(default_factory=dict)
    _times: HoldTimes = field(default_factory=HoldTimes)

    def need(self, application: str, part: Part, now_ms: int, rates: tuple[Rate, ...] = ()) -> None:
        """It is needed now. Rates that are held stay as they are until they end, unless they are to be stricter now."""
        held = self._needed.get((application, part))
        if held is not None:
            held.last_ms, held.is_calm = now_ms, False
            held.rates = rates if _strictness(rates) > _strictness(held.rates) else held.rates
            return
        hold_ms = self._times.begin(f"{application} {part}".encode(), now_ms)
        self._needed[application, part] = _Needed(now_ms, hold_ms, rates)

    def has(self, application: str, part: Part) -> bool:
        return (application, part) in self._needed

    def expire(self, now_ms: int) -> None:
        for key, held in list(self._needed.items()):
            held.is_calm = now_ms - held.last_ms >= _CALM_MS
            if now_ms - held.last_ms >= held.hold_ms:
                del self._needed[key]

    def adopt(self, holds: Iterable[Hold], now_ms: int) -> None:
        """Go on with what another process has put in force."""
        for hold in holds:
            parts: list[tuple[Part, bool]] = [
                ("cookies", hold.cookies),
                ("state", hold.state),
                ("no_fragments", hold.no_fragments),
                ("rates", bool(hold.rates)),
            ]
            for part in (part for part, is_held in parts if is_held):
                rates = tuple(hold.rates) if part == "rates" else ()
                self._needed[hold.application, part] = _Needed(now_ms, HOLD_MS, rates)

    def forget(self, applications: set[str]) -> None:
        """End what is held of all other applications."""
        self._needed = {key: held for key, held in self._needed.items() if key[0] in applications}

    def clear(self) -> None:
        self._needed.clear()

    def planned(self) -> list[Hold]:
        applications = sorted({application for application, _ in self._needed})
        return [self._hold(application) for application in applications]

    def _hold(self, application: str) -> Hold:
        rates = self._needed.get((application, "rates"))
        return Hold(
            application,
            cookies=self.has(application, "cookies"),
            state=self.has(application, "state"),
            no_fragments=self.has(application, "no_fragments"),
            rates=rates.planned_rates if rates else [],
        )


def _strictness(rates: tuple[Rate, ...]) -> tuple[int, int]:
    return len(rates), -sum(rate.per_s for rate in rates)


def fair_rates(of: Literal["syns", "packets"], most_per_s: float, *, spares_returning: bool = True) -> tuple[Rate, ...]:
    """So much from all together that nobody has answered yet, less from a network, still less from an address.

    Who comes back may have as much again: clients that hear nothing do, and who makes up addresses and ports does not.
    """

    def rate(ipv4: int, ipv6: int, per_s: float) -> Rate:
        return Rate(
            of, ipv4, ipv6, max(10, int(per_s)), max(20, int(per_s)), spares_returning=spares_returning and not ipv4
        )

    return rate(32, 64, most_per_s / 20), rate(24, 48, most_per_s / 5), rate(0, 0, most_per_s)
