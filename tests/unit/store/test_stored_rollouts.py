"""The course of changes is the same after a restart, and rollouts are remembered by what became of them."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from causeway.model.application import Application
from causeway.model.document.application import parse_application
from causeway.model.rollout import Changed, Course, Form, Hold, Rollout, RolloutState
from causeway.store import rollouts
from causeway.store.database import Database, StoreError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHANGES = (Changed("a" * 32, "web", "changed"),)


def app(port: int) -> Application:
    body = {
        "protocol": f"tcp/{port}",
        "dns": {"type": "CNAME", "name": "a.example.net"},
        "origin_direct": ["tcp://192.0.2.1:22"],
        "x_causeway": {"drain_s": 5, "proxy_protocol_from": ["192.0.2.0/24"]},
    }
    return parse_application(body, application_id="a" * 32, zone_id="b" * 32, created_on=NOW, now=NOW)


def rollout(number: int, **changes: object) -> Rollout:
    made = Rollout(number, RolloutState.OPEN, CHANGES, 7, sizes=(1, 2, 20), stage=1, edges=("ams-1",))
    return replace(made, **changes)  # type: ignore[arg-type]


def saved(database: Database, before: Course, after: Course, ended: RolloutState = RolloutState.DONE) -> Course:
    with database.write() as connection:
        rollouts.save(connection, before, after, 99, ended)
    with database.read() as connection:
        return rollouts.course(connection)


def test_a_course_is_read_as_it_was_written(database: Database) -> None:
    before, after = Form.of(app(1)), Form.of(app(2))
    course = Course(
        {
            "1": Hold("1", before),
            "2": Hold("2", before, after, rollout=3),
            "3": Hold("3", None, after, rollout=2, is_halted=True),
            "4": Hold("4", before, None, rollout=3),
            "5": Hold("5", before, is_meant=True),
        },
        rollout(3),
    )
    assert saved(database, Course(), course) == course
    assert saved(database, course, replace(course, rollout=rollout(3, stage=2, edges=("ams-1", "fra-1")))) != course


def test_who_is_over_is_told_how_and_who_is_halted_is_not_over(database: Database) -> None:
    hold = Hold("1", None, Form.of(app(1)), rollout=1)
    first, halted = Course({"1": hold}, rollout(1)), Course({"1": replace(hold, is_halted=True)})
    saved(database, Course(), first)
    with database.write() as connection:
        rollouts.halt(connection, 1, "edge ams-1: it went silent", 50)
    assert saved(database, first, halted) == halted
    with database.read() as connection:
        found = rollouts.find(connection, 1)
        assert found == rollout(1, state=RolloutState.HALTED, reason="edge ams-1: it went silent", ended_unix_ms=50)
        assert rollouts.next_number(connection) == 2
    assert saved(database, halted, Course(), RolloutState.PUSHED) == Course()
    with database.read() as connection:
        assert [(one.number, one.state) for one in rollouts.recent(connection, 9)] == [(1, RolloutState.PUSHED)]
        assert rollouts.find(connection, 2) is None


def test_of_old_rollouts_those_that_are_halted_are_kept(database: Database) -> None:
    with database.write() as connection:
        rollouts.put(connection, rollout(1, state=RolloutState.HALTED))
        for number in range(2, 400):
            rollouts.put(connection, rollout(number, state=RolloutState.DONE))
        kept = [one.number for one in rollouts.recent(connection, 1_000)]
    assert kept == [*range(399, 199, -1), 1]


def test_a_hold_that_somebody_else_wrote_is_told(database: Database) -> None:
    saved(database, Course(), Course({"1": Hold("1", Form.of(app(1)))}))
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE rollout_holds SET before = '[1]'")
    with pytest.raises(StoreError, match="cannot be read"), database.read() as connection:
        rollouts.course(connection)
