"""Rollouts: begun, taken on from stage to stage, halted; and what the operator says about them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Connection

from causeway.control import course as courses
from causeway.control.course import Wanted
from causeway.control.plane import Plane, now
from causeway.control.rules import check
from causeway.control.state import Edit
from causeway.model.application import Application
from causeway.model.problem import Code, Problem
from causeway.model.rollout import Course, Hold, Rollout, RolloutState
from causeway.store import applications as stored
from causeway.store import rollouts

log = logging.getLogger(__name__)

MOST_LISTED = 100
_LONGEST_REASON = 1_000  # an edge says it, and control keeps it


def recent(plane: Plane) -> list[Rollout]:
    """The newest first."""
    with plane.reading() as connection:
        return rollouts.recent(connection, MOST_LISTED)


def rollout_of(plane: Plane, number: int) -> Rollout:
    """The rollout, or the Problem that there is none."""
    with plane.reading() as connection:
        return _rollout_in(connection, number)


def _rollout_in(connection: Connection, number: int) -> Rollout:
    found = rollouts.find(connection, number)
    if found is None:
        raise Problem(Code.NOT_FOUND, f"there is no rollout {number}: see causeway rollouts")
    return found


def waiting(plane: Plane) -> list[str]:
    """Applications that are changed or deleted, and wait for a rollout of their own."""
    return sorted(id_ for id_, hold in plane.course.holds.items() if hold.waits)


# ---- as it goes on: whoever comes too late, because the course is another one by now, has done nothing ----


def begin(plane: Plane, of: Course, ids: frozenset[str], sizes: tuple[int, ...], edges: tuple[str, ...]) -> None:
    """Open a rollout of these applications, in its first stage."""

    def turn(connection: Connection, wanted: Wanted) -> Course:
        rollout = replace(_new(connection, of, wanted, ids), sizes=sizes, stage=1, edges=edges)
        log.info("rollout %d begins on edge %s: %s", rollout.number, ", ".join(edges), told_of(rollout))
        return courses.begun(of, wanted, ids, rollout)

    _turn(plane, of, turn)


def refuse(plane: Plane, of: Course, ids: frozenset[str], reason: str) -> None:
    """Halt what no edge has been given yet."""

    def turn(connection: Connection, wanted: Wanted) -> Course:
        rollout = _new(connection, of, wanted, ids)
        rollouts.put(connection, rollout)
        return _halt(connection, courses.begun(of, wanted, ids, rollout), wanted, reason)

    _turn(plane, of, turn)


def accept(plane: Plane, of: Course, ids: frozenset[str]) -> None:
    """Have done with what concerns no edge."""
    _turn(plane, of, lambda _, wanted: courses.accepted(of, wanted, ids))


def advance(plane: Plane, of: Course, edges: tuple[str, ...], stage: int) -> None:
    """Reach more edges, or others."""
    assert of.rollout
    rollout = replace(of.rollout, stage=stage, edges=edges)
    log.info("rollout %d, stage %d of %d: %d edge(s)", rollout.number, stage, len(rollout.sizes), len(edges))
    _turn(plane, of, lambda *_: replace(of, rollout=rollout))


def complete(plane: Plane, of: Course) -> None:
    assert of.rollout
    log.info("rollout %d is done", of.rollout.number)
    _turn(plane, of, lambda _, wanted: courses.passed(of, wanted), RolloutState.DONE)


def halt(plane: Plane, of: Course, reason: str) -> None:
    """Take it back from the edges that have it, and wait for the operator."""
    _turn(plane, of, lambda connection, wanted: _halt(connection, of, wanted, reason))


def _halt(connection: Connection, of: Course, wanted: Wanted, reason: str) -> Course:
    assert of.rollout
    number, reason = of.rollout.number, reason[:_LONGEST_REASON]
    log.error("rollout %d is halted and taken back: %s; see causeway rollouts show %d", number, reason, number)
    rollouts.halt(connection, number, reason, _now_ms())
    return courses.halted(of, wanted)


def _new(connection: Connection, of: Course, wanted: Wanted, ids: frozenset[str]) -> Rollout:
    number = rollouts.next_number(connection)
    return Rollout(number, RolloutState.OPEN, courses.changes(of, wanted, ids), _now_ms())


def _turn(
    plane: Plane,
    of: Course,
    turn: Callable[[Connection, Wanted], Course],
    ended: RolloutState = RolloutState.SUPERSEDED,
) -> None:
    plane.steer(lambda connection, course, wanted: turn(connection, wanted) if course is of else course, ended)


# ---- as the operator says ----


def push(plane: Plane, number: int | None = None) -> list[str]:
    """Bring a rollout to all edges at once, or, without a number, all that is under way or waits; not what was halted.

    Answers the applications that it is about.
    """
    pushed: list[str] = []

    def turn(connection: Connection, course: Course, wanted: dict[str, Application]) -> Course:
        ids = _of(connection, course, number) if number is not None else _not_halted(course)
        after = courses.released(course, wanted, ids)
        pushed.extend(sorted(course.holds.keys() - after.holds.keys()))
        return after

    plane.steer(turn, RolloutState.PUSHED)
    log.info("%d application(s) are pushed to all edges at once, as the operator says", len(pushed))
    return pushed


def resume(plane: Plane, number: int) -> None:
    """Have a halted rollout tried again, from its first stage."""

    def turn(connection: Connection, course: Course, _: dict[str, Application]) -> Course:
        _of(connection, course, number)
        if number not in course.halted:
            raise Problem(Code.CONFLICT, f"rollout {number} is under way: only a halted one is resumed")
        return courses.resumed(course, number)

    plane.steer(turn)


def rollback(plane: Plane, number: int) -> list[str]:
    """Have its applications be again what they were, in what is stored and on every edge; answer which.

    What was changed once more since stays as it is.

    Raises:
        Problem: it is not open or halted; or what stands in the way of an application, the others are back.
    """
    with plane.reading() as connection:
        _of(connection, plane.course, number)
    while (course := plane.course).rollout and course.rollout.number == number:
        halt(plane, course, "the operator takes it back")
    left = [hold for hold in plane.course.holds.values() if hold.is_halted and hold.rollout == number]
    back: list[str] = []
    while left:
        blocked, why = [], None
        for hold in left:
            try:
                plane.change(lambda connection, hold=hold: _restored(plane, connection, hold))  # type: ignore[misc]
                back.append(hold.application_id)
            except Problem as problem:  # another one of them may have its port
                blocked.append(hold)
                why = problem
        if why and len(blocked) == len(left):
            raise why
        left = blocked
    if not any(hold.rollout == number for hold in plane.course.holds.values()):
        with plane.writing() as connection:
            rollouts.end(connection, number, RolloutState.ROLLED_BACK)
    return sorted(back)


def _restored(plane: Plane, connection: Connection, hold: Hold) -> Edit | None:
    id_ = hold.application_id
    if plane.course.holds.get(id_) is not hold:
        return None
    is_stored = stored.zone_of(connection, id_) is not None
    if hold.before is None:
        stored.remove(connection, id_)
        return Edit(id_, None)
    application = replace(hold.before.application, modified_on=now())
    check(plane, connection, application)
    (stored.change if is_stored else stored.add)(connection, application)
    return Edit(id_, application)


def _of(connection: Connection, course: Course, number: int) -> list[str]:
    """Its applications, or the Problem that it is over."""
    found = [id_ for id_, hold in course.holds.items() if hold.rollout == number]
    rollout = _rollout_in(connection, number)
    if not found:
        raise Problem(Code.CONFLICT, f"rollout {number} is over ({rollout.state}): change the applications instead")
    return found


def _not_halted(course: Course) -> list[str]:
    return [id_ for id_, hold in course.holds.items() if not hold.is_halted]


def told_of(rollout: Rollout) -> str:
    """What it is about, in words."""
    first = ", ".join(f"{change.name} {change.how}" for change in rollout.changes[:3])
    return f"{first} and {len(rollout.changes) - 3} more" if len(rollout.changes) > 3 else first


def _now_ms() -> int:
    return int(now().timestamp() * 1000)
