"""When is a prefix announced, and on which terms? Health in, announcements out.

Pure: the caller brings the time. Worse news is passed on at once, better news not before a while: routers elsewhere
damp who flaps. Knows nothing of control: an edge that serves is announced, whoever else is up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address

from causeway.model.anycast import Announcements, Policy
from causeway.model.application import Address, Network
from causeway.model.report import Report

BETTER_AFTER_S = 10.0  # since the last worse news of a prefix
FULL_AFTER_S, WELL_AFTER_S = 5.0, 60.0  # memory has been short, or not, for so long
SETTLE_S = 1.0  # after a withdrawal, until neighbours have taken other ways


class Level(IntEnum):
    """From worse to better."""

    WITHDRAWN = 0
    LEAVING = 1  # still reachable where there is no other way
    ANNOUNCED = 2


@dataclass(frozen=True, slots=True)
class Health:
    """What matters of an edge: where somebody is served, and whether new connections are refused for want of memory."""

    served: frozenset[Address] = frozenset()
    is_full: bool = False

    @staticmethod
    def of(report: Report) -> Health:
        """An application whose port could not be had on an address is not served there; another one may be."""
        if not report.version:
            return Health()
        refused = {(listener.application, listener.address) for listener in report.refused}
        served = {at.address for at in report.carriers if (at.application, at.address) not in refused}
        return Health(frozenset(ip_address(text) for text in served), bool(report.memory and report.memory.is_full))

    def serves(self, prefix: Network) -> bool:
        return any(_is_in(address, prefix) for address in self.served)


def _is_in(address: Address, prefix: Network) -> bool:
    return address.version == prefix.version and (address.is_unspecified or address in prefix)


@dataclass(slots=True)
class Announcing:
    """What has been said of each prefix, and when it became worse."""

    policy: Policy
    _levels: dict[Network, Level] = field(default_factory=dict)
    _worse_s: dict[Network, float] = field(default_factory=dict)
    _left_s: dict[Network, float] = field(default_factory=dict)  # since when it is being left
    _held: frozenset[Network] = frozenset()
    _full_s: float | None = None
    _well_s: float | None = None
    _is_short: bool = False

    def hold(self, prefixes: Iterable[Network]) -> None:
        """Go on with these although nobody is served there any more: connections that exist still are."""
        self._held = frozenset(prefixes)

    def leave(self, prefix: Network, now_s: float) -> None:
        """Have clients go elsewhere: on leaving terms at first, then withdrawn, until `stay`."""
        self._left_s.setdefault(prefix, now_s)

    def stay(self, prefix: Network) -> None:
        self._left_s.pop(prefix, None)

    def is_leaving(self, prefix: Network) -> bool:
        return prefix in self._left_s

    def has_left(self, prefix: Network, now_s: float) -> bool:
        """Whether nobody comes any more, as far as routers are quick."""
        since_s = self._left_s.get(prefix)
        return since_s is not None and now_s >= since_s + self.policy.leave_s + SETTLE_S

    def step(self, health: Health, now_s: float) -> Announcements:
        """What to announce now."""
        self._judge_memory(health, now_s)
        for prefix in self.policy.prefixes:
            self._move(prefix, self._wanted(prefix, health, now_s), now_s)
        terms = {Level.LEAVING: self.policy.leaving, Level.ANNOUNCED: self.policy.usual}
        return {prefix: terms[level] for prefix, level in self._levels.items() if level}

    def level(self, prefix: Network) -> Level:
        return self._levels.get(prefix, Level.WITHDRAWN)

    def _wanted(self, prefix: Network, health: Health, now_s: float) -> Level:
        if not health.serves(prefix) and prefix not in self._held:
            return Level.WITHDRAWN
        since_s = self._left_s.get(prefix)
        if since_s is not None:
            return Level.LEAVING if now_s < since_s + self.policy.leave_s else Level.WITHDRAWN
        # Where every edge is short, a way to one of them is better than none.
        return Level.LEAVING if self._is_short else Level.ANNOUNCED

    def _move(self, prefix: Network, wanted: Level, now_s: float) -> None:
        before = self.level(prefix)
        if wanted < before:
            self._worse_s[prefix] = now_s
        elif wanted > before and now_s < self._worse_s.get(prefix, float("-inf")) + BETTER_AFTER_S:
            return
        self._levels[prefix] = wanted

    def _judge_memory(self, health: Health, now_s: float) -> None:
        self._full_s = (now_s if self._full_s is None else self._full_s) if health.is_full else None
        self._well_s = None if health.is_full else (now_s if self._well_s is None else self._well_s)
        if self._full_s is not None and now_s >= self._full_s + FULL_AFTER_S:
            self._is_short = True
        elif self._well_s is not None and now_s >= self._well_s + WELL_AFTER_S:
            self._is_short = False
