"""May a rollout go on? What edges report before and after they took a change, and what follows of it.

Pure: the caller brings reports and times. Stages are small at the beginning, so that what is bad reaches one edge.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from causeway.model.report import Report

TAKE_S = 20.0  # to have taken what was delivered
_SECOND_PART = 10  # of the edges are in the second stage, all in the last
_LEAST_FAILED = 10  # connects to origins; fewer may be chance
_MORE_FAILED = 0.2  # of those tried, than before
_MANY_DELETED = 10
_STRAY_SHARE = 0.02  # of many edges one or two may go down of themselves meanwhile


@dataclass(frozen=True, slots=True)
class Sight:
    """What counts of one report. `refused` are listeners, `tried` and `failed` connects to origins, all of the
    applications that the rollout is about."""

    uptime_ms: int
    workers_replaced: int
    refused: frozenset[tuple[str, str, str, int, int]]
    tried: int
    failed: int

    @staticmethod
    def of(report: Report, applications: Collection[str]) -> Sight:
        seen = [one for one in report.applications if one["id"] in applications]
        failed = sum(int(one.get("connect_errors_total", 0)) for one in seen)
        refused = frozenset(
            (at.application, at.protocol, at.address, at.ports.first, at.ports.last)
            for at in report.refused
            if at.application in applications
        )
        tried = sum(int(one.get("connections_total", 0)) for one in seen)
        return Sight(report.uptime_ms, report.workers_replaced_total, refused, max(tried, failed), failed)


NOTHING = Sight(0, 0, frozenset(), 0, 0)


@dataclass(frozen=True, slots=True)
class Watched:
    """One edge that was given the change. `taken_s`: since when it serves it; `refusal`: it never will.

    `heard_s`: when it reported last.
    """

    name: str
    before: Sight
    now: Sight
    taken_s: float | None = None
    heard_s: float = 0.0
    is_silent: bool = False
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Harm:
    reason: str


@dataclass(frozen=True, slots=True)
class Passed:
    pass


def judge(edges: Sequence[Watched], opened_s: float, now_s: float, bake_s: float) -> Harm | Passed | None:
    """Of one stage, open since `opened_s`; nothing: not yet."""
    for edge in edges:
        if found := _harm(edge):
            return Harm(f"edge {edge.name}: {found}")
    strays = [(edge.name, why) for edge in edges if (why := _stray(edge, opened_s, now_s))]
    if len(strays) > int(len(edges) * _STRAY_SHARE):
        name, why = strays[0]
        others = f", and {len(strays) - 1} more" if len(strays) > 1 else ""
        return Harm(f"edge {name}: {why}{others}")
    away = {name for name, _ in strays}
    waited_for = [edge for edge in edges if edge.name not in away]
    # Its word of the end of that time counts: who has died meanwhile is not silent for long enough yet.
    is_baked = all(edge.taken_s is not None and edge.heard_s - edge.taken_s >= bake_s for edge in waited_for)
    return Passed() if is_baked and (waited_for or not edges) else None


def _harm(edge: Watched) -> str | None:
    """What an edge does of itself never or hardly ever."""
    before, now = edge.before, edge.now
    if edge.refusal:
        return f"it refused the snapshot: {edge.refusal}"
    if now.uptime_ms >= before.uptime_ms and now.workers_replaced > before.workers_replaced:
        return f"{now.workers_replaced - before.workers_replaced} of its workers hung or failed and were replaced"
    if new := sorted(now.refused - before.refused):
        application, protocol, address, first, last = new[0]
        ports = str(first) if first == last else f"{first}-{last}"
        more = f", and {len(new) - 1} more listeners" if len(new) > 1 else ""
        return f"it cannot listen on {protocol}/{ports} of {address} for application {application}{more}"
    return _failing(before, now)


def _failing(before: Sight, now: Sight) -> str | None:
    if now.tried < before.tried:  # it was started anew, which is another harm
        return None
    tried, failed = now.tried - before.tried, now.failed - before.failed
    if failed < _LEAST_FAILED:
        return None
    share, usual = failed / max(tried, failed), before.failed / before.tried if before.tried else 0.0
    if share - usual < _MORE_FAILED:
        return None
    return f"{failed} of {max(tried, failed)} connects to origins of what was changed failed ({usual:.0%} before)"


def _stray(edge: Watched, opened_s: float, now_s: float) -> str | None:
    """What may be chance where there are many edges."""
    if edge.is_silent:
        return "it went silent after it was given the change"
    if edge.now.uptime_ms < edge.before.uptime_ms:
        return "it was started anew after it was given the change"
    if edge.taken_s is None and now_s - opened_s > TAKE_S:
        return f"it did not take the change within {TAKE_S:.0f} s"
    return None


def sizes(count: int) -> tuple[int, ...]:
    """How many edges each stage is to reach: one, a tenth, all."""
    return tuple(sorted({1, max(1, math.ceil(count / _SECOND_PART)), max(1, count)}))


def picked(had: Sequence[str], candidates: Iterable[str], size: int) -> tuple[str, ...]:
    """Who is in a stage: those that were, and more up to `size`, by name: so operators know who is first."""
    more = sorted(name for name in candidates if name not in had)
    return (*had, *more[: max(0, size - len(had))])


def mass_deletion(deleted: int, served: int) -> str | None:
    """Why a rollout does not even begin: it would take away most of what edges serve."""
    if deleted < _MANY_DELETED or deleted * 2 <= served:
        return None
    return f"it deletes {deleted} of the {served} applications that edges serve: push or resume it if that is meant"
