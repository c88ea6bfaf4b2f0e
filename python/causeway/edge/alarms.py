"""What an operator must hear of before it fails: sentences for the log, each said once until it is over.

Pure: reports in, lines out. An alarm that has been raised ends well below where it began, so that it does not flap.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import NamedTuple

from causeway.model.report import Memory, PortPressure, Report

_PORTS_FROM, _PORTS_UNTIL = 0.8, 0.7
_QUIET_MS = 5_000
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

    def lines(self, report: Report) -> list[Line]:
        """What this report gives reason to say."""
        return [
            *self._port_lines(report.port_pressure),
            *self._worker_lines(report.workers_replaced_total),
            *self._memory_lines(report.memory, report.totals.get("shed_total", 0), report.uptime_ms),
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


def _name(pressure: PortPressure) -> str:
    return f"{pressure.protocol} to {pressure.origin}" if pressure.origin else f"{pressure.protocol} to all origins"
