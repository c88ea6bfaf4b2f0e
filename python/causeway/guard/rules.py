"""The life of a rule: watched for a second, in force while it matches, gone a while later. Pure.

A rule that is seen on an open flow's packet, in its trial or later, is given up: it says something of good packets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import msgspec

from causeway.guard.match import Fits, compiled
from causeway.guard.packet import Packet
from causeway.guard.reservoir import bound
from causeway.model.mitigation import Match, Rule, RuleCount, RuleState

MOST_RULES = 64
TRIAL_MS = 1_000
_SILENT_TRIAL_MS = 5_000  # a trial that nothing came to
HOLD_MS, MOST_HOLD_MS = 60_000, 3_600_000
_REMEMBERED_MS = 24 * 3_600_000
_REFUSED_MS = 600_000
_MOST_REMEMBERED = 1_024
_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Living:
    """A rule and what is known of it. Times are monotonic but for `made_unix_ms`."""

    rule: Rule
    attack: str
    made_ms: int
    made_unix_ms: int
    matched_ms: int
    hold_ms: int
    good_samples: int
    packets: int = 0
    established: int = 0
    tried_from_ms: int | None = None  # of its trial: when the kernel was first seen to count

    @property
    def is_trial(self) -> bool:
        return self.rule.action == "watch"

    def state(self) -> RuleState:
        return RuleState(
            self.rule,
            self.attack,
            self.made_unix_ms,
            self.packets,
            self.established,
            self.good_samples,
            bound(self.good_samples),
        )


@dataclass(slots=True)
class HoldTimes:
    """How long something stays after it was last needed: a minute, and twice as long whenever it has to come again."""

    _last: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def begin(self, key: bytes, now_ms: int) -> int:
        known = self._last.pop(key, None)
        again = known is not None and now_ms - known[1] < _REMEMBERED_MS
        hold_ms = min(MOST_HOLD_MS, 2 * known[0]) if known and again else HOLD_MS
        self._last[key] = (hold_ms, now_ms)
        if len(self._last) > _MOST_REMEMBERED:
            del self._last[next(iter(self._last))]
        return hold_ms


@dataclass(slots=True)
class Rules:
    """All automatic rules of an edge, at most 64."""

    _living: dict[str, Living] = field(default_factory=dict)
    _fits: dict[str, Fits] = field(default_factory=dict)
    _times: HoldTimes = field(default_factory=HoldTimes)
    _refused: dict[bytes, int] = field(default_factory=dict)
    _made: int = 0

    def __iter__(self) -> Iterator[Living]:
        return iter(self._living.values())

    def of(self, attack: str) -> list[Living]:
        return [living for living in self._living.values() if living.attack == attack]

    def try_out(
        self, application: str, match: Match, attack: str, good_samples: int, now_ms: int, now_unix_ms: int
    ) -> bool:
        """Begin a rule by a trial. False: there is no room, it is there already, or it has failed not long ago."""
        key = _key(application, match)
        if len(self._living) >= MOST_RULES or now_ms - self._refused.get(key, -_REFUSED_MS) < _REFUSED_MS:
            return False
        if any(living.rule.application == application and living.rule.match == match for living in self):
            return False
        self._made += 1
        rule = Rule(f"{attack}-{self._made}", application, "watch", match)
        self._add(Living(rule, attack, now_ms, now_unix_ms, now_ms, HOLD_MS, good_samples))
        return True

    def adopt(self, rules: Iterable[Rule], now_ms: int, now_unix_ms: int) -> None:
        """Go on with what another process has put in force."""
        for rule in list(rules)[:MOST_RULES]:
            attack, _, number = rule.id.rpartition("-")
            self._made = max(self._made, int(number) if number.isdecimal() else 0)
            self._add(Living(rule, attack or rule.id, now_ms, now_unix_ms, now_ms, HOLD_MS, 0))

    def count(self, counts: Iterable[RuleCount], now_ms: int) -> None:
        """Take note of what each rule has matched, give up what touches open flows, end trials and what has expired."""
        for count in counts:
            living = self._living.get(count.id)
            if living is None:
                continue
            has_more = count.packets not in (0, living.packets)  # fewer: the kernel began anew
            self._living[count.id] = replace(
                living,
                packets=count.packets,
                established=count.established,
                matched_ms=now_ms if has_more else living.matched_ms,
                tried_from_ms=now_ms if living.tried_from_ms is None else living.tried_from_ms,
            )
        for living in list(self._living.values()):
            self._go_on(living, now_ms)

    def see_good(self, application: str, packet: Packet, now_ms: int) -> None:
        """Give up rules that fit a packet which is good."""
        for living in list(self._living.values()):
            if living.rule.application == application and self._fits[living.rule.id](packet):
                self._refuse(living, now_ms)

    def forget(self, applications: set[str]) -> None:
        """End the rules of all other applications."""
        for living in list(self._living.values()):
            if living.rule.application not in applications:
                self._remove(living)

    def clear(self) -> None:
        self._living.clear()
        self._fits.clear()

    def planned(self) -> list[Rule]:
        """As the kernel is to have them. It ends each by itself if nobody comes to renew it."""
        return [msgspec.structs.replace(living.rule, expires_ms=_expiry(living)) for living in self]

    def _go_on(self, living: Living, now_ms: int) -> None:
        if living.established:
            self._refuse(living, now_ms)
        elif not living.is_trial:
            if now_ms - living.matched_ms >= living.hold_ms:
                self._remove(living)
        elif living.packets and living.tried_from_ms is not None and now_ms - living.tried_from_ms >= TRIAL_MS:
            hold_ms = self._times.begin(_key(living.rule.application, living.rule.match), now_ms)
            rule = msgspec.structs.replace(living.rule, action="drop")
            self._living[rule.id] = replace(living, rule=rule, hold_ms=hold_ms, matched_ms=now_ms)
        elif now_ms - living.made_ms >= _SILENT_TRIAL_MS and not living.packets:
            self._remove(living)

    def _add(self, living: Living) -> None:
        self._living[living.rule.id] = living
        self._fits[living.rule.id] = compiled(living.rule.match)

    def _remove(self, living: Living) -> None:
        del self._living[living.rule.id], self._fits[living.rule.id]

    def _refuse(self, living: Living, now_ms: int) -> None:
        self._remove(living)
        self._refused[_key(living.rule.application, living.rule.match)] = now_ms
        if len(self._refused) > _MOST_REMEMBERED:
            del self._refused[next(iter(self._refused))]


def _key(application: str, match: Match) -> bytes:
    return _encode((application, match))


def _expiry(living: Living) -> int:
    """Renewed in steps of half the time, for each renewal rewrites all rules in the kernel."""
    step = living.hold_ms // 2
    return (living.matched_ms // step + 1) * step + living.hold_ms
