"""What happened between two looks, per second. Counts that went back (a new engine) are taken as no change. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from causeway.model.mitigation import Guarded, System

DROPS = frozenset(
    ("blocked", "rule_dropped", "rate", "cookie_failed", "out_of_state", "malformed", "illegal", "fragment", "port",
     "protocol")
)  # fmt: skip
BANNED = "banned"  # SYNs of sources that the engine has found and judged itself: no news here
INVITED = frozenset(("established", "allowed", "rule_passed", "cookie_taken"))


@dataclass(frozen=True, slots=True)
class Pace:
    """Of one application. `judged`, `invited` and `kept_out` are 0 while the kernel's guard does not look."""

    application: str
    protocol: str
    over_s: float
    judged: float = 0.0
    invited: float = 0.0  # of open flows, allowed, or back with a cookie
    kept_out: float = 0.0  # dropped, or answered with a cookie in place of the application
    cookies_sent: float = 0.0
    cookies_taken: float = 0.0
    opened: float = 0.0
    established: float = 0.0
    pressed: float = 0.0
    failed: float = 0.0
    carried: float = 0.0  # packets of flows, both directions

    @property
    def newcomers(self) -> float:
        return self.opened + self.pressed


@dataclass(frozen=True, slots=True)
class MachinePace:
    received: float
    cookies_sent: float
    cookies_taken: float
    cookies_failed: float
    listen_drops: float
    queue_drops: float
    missed: float
    cpu_busy: float


def pace(before: Guarded, after: Guarded, over_s: float) -> Pace:
    was, now = before.signals, after.signals

    def rate(old: int, new: int) -> float:
        return max(0, new - old) / over_s

    if not after.packets and not after.watched:  # nobody judges packets now
        return Pace(
            application=after.application,
            protocol=after.protocol,
            over_s=over_s,
            opened=rate(was.opened, now.opened),
            established=rate(was.established, now.established),
            pressed=rate(was.pressed, now.pressed),
            failed=rate(was.failed, now.failed),
            carried=rate(was.packets, now.packets),
        )
    verdicts = {
        name: rate(_judged(before, name), _judged(after, name)) for name in {*after.packets, *after.watched} - {BANNED}
    }
    cookies = verdicts.get("cookie_sent", 0.0)
    return Pace(
        application=after.application,
        protocol=after.protocol,
        over_s=over_s,
        judged=sum(verdicts.values()),
        invited=_sum(verdicts, INVITED),
        kept_out=_sum(verdicts, DROPS) + cookies,
        cookies_sent=cookies,
        cookies_taken=verdicts.get("cookie_taken", 0.0),
        opened=rate(was.opened, now.opened),
        established=rate(was.established, now.established),
        pressed=rate(was.pressed, now.pressed),
        failed=rate(was.failed, now.failed),
        carried=rate(was.packets, now.packets),
    )


def machine_pace(before: System, after: System, over_s: float) -> MachinePace:
    def rate(name: str) -> float:
        grown: float = getattr(after, name) - getattr(before, name)
        return max(0.0, grown) / over_s

    return MachinePace(
        received=rate("received_packets"),
        cookies_sent=rate("cookies_sent"),
        cookies_taken=rate("cookies_taken"),
        cookies_failed=rate("cookies_failed"),
        listen_drops=rate("listen_drops"),
        queue_drops=rate("queue_drops"),
        missed=rate("missed_packets"),
        cpu_busy=after.cpu_busy,
    )


def _judged(of: Guarded, verdict: str) -> int:
    return of.packets.get(verdict, 0) + of.watched.get(verdict, 0)


def _sum(verdicts: Mapping[str, float], names: frozenset[str]) -> float:
    return sum(rate for name, rate in verdicts.items() if name in names)
