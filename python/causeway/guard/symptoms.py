"""Whether many packets do harm: what tells an attack from a crowd. Pure.

A crowd has volume and no symptom: its handshakes are completed, its datagrams are answered, the origin takes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from causeway.guard.pace import MachinePace, Pace
from causeway.guard.vector import STRAYS, Vector

LEAST_COMPLETION = 0.70
MOST_FAILING_COOKIES = 0.50
MOST_ONE_WAY = 0.90
_MOST_FAILING_ORIGINS, _LEAST_FAILED_PER_S = 0.50, 10.0
_BUSY_CPU, _DROPPING_PER_S = 0.90, 100.0
_MOSTLY = 0.50


@dataclass(frozen=True, slots=True)
class Symptoms:
    """Of one application, now."""

    unfinished: bool = False  # connections asked for and not completed
    one_way: bool = False  # datagrams that get no answer
    failing_origins: bool = False
    pressed_machine: bool = False  # processors or queues, and most packets are nobody's

    def gate(self, vector: Vector) -> bool:
        """Whether many packets of this sort are more than volume."""
        if vector == "syn":
            return self.unfinished or self.failing_origins or self.pressed_machine
        if vector == "udp":
            return self.one_way or self.pressed_machine
        return vector in STRAYS or vector in ("fragment", "broken") or self.pressed_machine


def symptoms_of(
    now: Pace, asked_before: float, asked: float, uninvited: float | None, machine: MachinePace, bound: float
) -> Symptoms:
    """`asked_before`: connections asked for per second one look earlier, for a handshake takes its time; `bound`: how
    many may stay open without more ado; `uninvited`: packets per second of no flow, None if flows cannot be told.
    """
    missing = min(1.0, uninvited / now.judged) if now.judged and uninvited is not None else 0.0
    is_told = now.judged > 0 and uninvited is not None
    return Symptoms(
        unfinished=_is_unfinished(now, asked_before, asked, bound) or _cookies_fail(now, machine),
        one_way=missing > MOST_ONE_WAY if is_told else _is_one_way(now, asked_before),
        failing_origins=now.failed > max(_LEAST_FAILED_PER_S, _MOST_FAILING_ORIGINS * now.opened),
        pressed_machine=is_pressed(machine) and missing > _MOSTLY,
    )


def is_pressed(machine: MachinePace) -> bool:
    return machine.cpu_busy > _BUSY_CPU or machine.queue_drops + machine.missed > _DROPPING_PER_S


def _is_unfinished(now: Pace, asked_before: float, asked: float, bound: float) -> bool:
    if now.protocol != "tcp":
        return False
    least = min(asked_before, asked)
    is_short = now.established < LEAST_COMPLETION * least and least - now.established > _MOSTLY * bound
    # No round trip explains so many at once: not even one look is waited for.
    return is_short or asked - now.established > 10 * bound


def _cookies_fail(now: Pace, machine: MachinePace) -> bool:
    if now.cookies_sent > 0:
        return now.cookies_taken < (1 - MOST_FAILING_COOKIES) * now.cookies_sent
    done = machine.cookies_taken + machine.cookies_failed
    return now.protocol == "tcp" and done > 10 and machine.cookies_failed > MOST_FAILING_COOKIES * done


def _is_one_way(now: Pace, asked_before: float) -> bool:
    least = min(asked_before, now.newcomers)
    return now.protocol == "udp" and least > 0 and now.established < (1 - MOST_ONE_WAY) * least
