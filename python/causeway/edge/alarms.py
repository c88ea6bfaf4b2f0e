"""What an operator must hear of before it fails: sentences for the log, each said once until it is over.

Pure: reports in, lines out. An alarm that has been raised ends well below where it began, so that it does not flap.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import NamedTuple

from causeway.model.mitigation import REST, Attack, MitigationState
from causeway.model.report import Memory, PortPressure, Report
from causeway.model.wording import rule_text

_PORTS_FROM, _PORTS_UNTIL = 0.8, 0.7
_QUIET_MS = 5_000
_MOST_LINES_PER_S = 20  # about attacks and rules: what attacks must not fill the log
_WHAT_TO_DO = "give more source addresses (--source-ip) or widen net.ipv4.ip_local_port_range"


class Line(NamedTuple):
    level: int
    text: str


@dataclass(slots=True)
class Alarms:
    """What has been said and is not over."""

    _ports: set[str] = field(default_factory=set)
    _replaced: int = 0
    _is_short_of_memory: bool = False
    _short_ms: int = 0
    _shed_seen: int = 0
    _shed_told: int = 0
    _attacks: dict[str, bool] = field(default_factory=dict)  # that go on: are they answered
    _over: set[str] = field(default_factory=set)
    _rules: set[str] = field(default_factory=set)  # in force against them
    _second_ms: int = 0
    _lines_left: int = _MOST_LINES_PER_S

    def lines(self, report: Report) -> list[Line]:
        """What this report gives reason to say."""
        return [
            *self._port_lines(report.port_pressure),
            *self._worker_lines(report.workers_replaced_total),
            *self._memory_lines(report.memory, report.totals.get("shed_total", 0), report.uptime_ms),
            *self._bounded(
                [*self._attack_lines(report.attacks), *self._rule_lines(report.mitigation)], report.uptime_ms
            ),
        ]

    def _port_lines(self, pressures: list[PortPressure]) -> list[Line]:
        lines = []
        for pressure in pressures:
            name = _name(pressure)
            if pressure.share >= _PORTS_FROM and name not in self._ports:
                self._ports.add(name)
                used = f"{pressure.used} of {pressure.available} source ports ({pressure.share:.0%})"
                lines.append(Line(logging.WARNING, f"{name}: {used} are in use: {_WHAT_TO_DO}"))
        high = {_name(pressure) for pressure in pressures if pressure.share > _PORTS_UNTIL}
        for name in sorted(self._ports - high):
            self._ports.remove(name)
            lines.append(Line(logging.INFO, f"{name}: enough source ports are free again"))
        return lines

    def _worker_lines(self, replaced: int) -> list[Line]:
        fresh, self._replaced = replaced - self._replaced, replaced
        if fresh <= 0:
            return []
        what = f"{fresh} worker(s) of the edge hung and were replaced, {replaced} since the start"
        return [Line(logging.ERROR, f"{what}: connections on them were reset, others went on. Please report this")]

    def _memory_lines(self, memory: Memory | None, shed: int, now_ms: int) -> list[Line]:
        """What was refused and cut is told when it has been quiet for a while: until then it grows."""
        is_full = memory is not None and memory.is_full
        if is_full or shed > self._shed_seen:
            self._short_ms, self._shed_seen = now_ms, shed
            if self._is_short_of_memory or memory is None:
                return []
            self._is_short_of_memory = True
            used = f"{memory.used_bytes >> 20} of {memory.limit_bytes >> 20} MiB of its cgroup are used"
            what = "new connections are refused, and stuck ones cut from 95% on"
            return [Line(logging.WARNING, f"memory is short: {used}: {what}. Give it more (MemoryMax=)")]
        if not self._is_short_of_memory or now_ms - self._short_ms < _QUIET_MS:
            return []
        fresh, self._shed_told, self._is_short_of_memory = shed - self._shed_told, shed, False
        return [
            Line(logging.WARNING, f"memory was short: {fresh} connection(s) were refused or cut for it. It is over")
        ]

    def _attack_lines(self, attacks: list[Attack]) -> list[Line]:
        """Its first second and its last, never a line for a packet. One that came and went between looks has both."""
        lines = []
        for attack in attacks:
            what = f"attack {attack.id} on {_target(attack)}"
            if attack.id in self._over:
                continue
            if attack.id not in self._attacks:
                lines.append(Line(logging.WARNING, f"{what}: {attack.kind}, {attack.vector}"))
            if attack.mitigated_after_ms is not None and not self._attacks.get(attack.id, False):
                lines.append(Line(logging.WARNING, f"{what} is answered, after {attack.mitigated_after_ms} ms"))
            if attack.ended_unix_ms is not None:
                lines.append(Line(logging.WARNING, f"{what} is over: {_course(attack)}"))
        self._attacks = {a.id: a.mitigated_after_ms is not None for a in attacks if a.ended_unix_ms is None}
        self._over = {attack.id for attack in attacks if attack.ended_unix_ms is not None}
        return lines

    def _rule_lines(self, state: MitigationState | None) -> list[Line]:
        """Of those that are in force; one on trial drops nothing."""
        rules = [told for told in state.rules if told.rule.action != "watch"] if state else []
        fresh = [told for told in rules if told.rule.id not in self._rules]
        self._rules = {told.rule.id for told in rules}
        said = (f"attack {told.attack}: rule {told.rule.id} {rule_text(told.rule)}" for told in fresh)
        return [Line(logging.WARNING, text) for text in said]

    def _bounded(self, lines: list[Line], now_ms: int) -> list[Line]:
        """So many in a second, and one that says so when there were more."""
        if now_ms - self._second_ms >= 1_000 or now_ms < self._second_ms:
            self._second_ms, self._lines_left = now_ms, _MOST_LINES_PER_S
        said = lines[: self._lines_left]
        if len(said) < len(lines) and self._lines_left:
            more = "more is to be said than fits into this log: see causeway attacks and causeway mitigation"
            said = [*said[:-1], Line(logging.WARNING, more)]
        self._lines_left -= len(said)
        return said


def _target(attack: Attack) -> str:
    return "the whole edge" if attack.application == REST else f"application {attack.application}"


def _course(attack: Attack) -> str:
    seconds = ((attack.ended_unix_ms or attack.started_unix_ms) - attack.started_unix_ms) / 1000
    counts = f"{attack.packets_dropped:,} packets dropped, {attack.packets_passed:,} let in"
    return f"{seconds:.0f} s, at most {attack.peak_packets_per_s:,} packets/s, {counts}"


def _name(pressure: PortPressure) -> str:
    return f"{pressure.protocol} to {pressure.origin}" if pressure.origin else f"{pressure.protocol} to all origins"
