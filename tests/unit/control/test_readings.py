"""Counts of edges become readings of legs: what is new, what was lost, what failed, and what nobody knows any more."""

import math

import pytest

from causeway.control.readings import STALE_S, SYN_AGAIN_MS, Readings
from causeway.model.report import LegSeen, ReachSeen, Steering

APP = "a" * 32


def reach(connects: int, rtt_ms: float, retransmitted: int = 0, failed: int = 0, age_ms: int = 0) -> Steering:
    return Steering(7, [], [ReachSeen(APP, connects, round(rtt_ms * 1000), retransmitted, failed, age_ms)])


def leg(rtt_ms: float, *, answers: int = 5, age_ms: int = 500, is_down: bool = False) -> Steering:
    us = round(rtt_ms * 1000)
    return Steering(7, [LegSeen("fra", us, 0, us, us, answers, 0, age_ms, is_down)], [])


def taken(*told: Steering) -> float | None:
    readings = Readings()
    for at_s, one in enumerate(told):
        readings.take("ams", one, float(at_s))
    return readings.reach_ms("ams", APP, float(len(told)))


@pytest.mark.parametrize(
    ("told", "reading_ms"),
    [
        ([reach(0, 0)], None),
        ([reach(2, 40)], 20),
        ([reach(2, 40), reach(4, 140)], 50),  # the two new ones
        ([reach(2, 40), reach(2, 40)], 20),  # nothing new
        ([reach(2, 40), reach(1, 30)], 30),  # the edge was started anew
        ([reach(0, 0, failed=1)], math.inf),
        ([reach(2, 40), reach(2, 40, failed=1)], math.inf),
        ([reach(2, 40), reach(3, 60, failed=1)], 20),  # one of two came about
        ([reach(0, 0, failed=1), reach(1, 20, failed=1)], 20),  # it leads there again
        ([reach(2, 40, age_ms=int(STALE_S * 1000) + 1)], None),  # measured before control was started
    ],
)
def test_what_an_edge_counts_is_a_reading_of_the_way_to_an_origin(
    told: list[Steering], reading_ms: float | None
) -> None:
    assert taken(*told) == (None if reading_ms is None else pytest.approx(reading_ms))


def test_lost_syns_cost_what_a_client_waits_for_and_are_forgotten_by_and_by() -> None:
    readings = Readings()
    readings.take("ams", reach(100, 20 * 90, retransmitted=10), 0)
    known = readings.reach_ms("ams", APP, 0)
    assert known and 20 + 0.05 * SYN_AGAIN_MS < known < 20 + 0.1 * SYN_AGAIN_MS
    readings.take("ams", reach(500, 20 * 490, retransmitted=10), 1)
    assert readings.reach_ms("ams", APP, 1) == pytest.approx(20, abs=0.1)


def test_lost_syns_are_forgotten_where_few_connections_show_that_nothing_is_lost_any_more() -> None:
    readings = Readings()
    readings.take("ams", reach(30, 0, retransmitted=30), 0)  # all of those that were under way when a line was cut
    for number in range(1, 7):  # and one in ten seconds since
        readings.take("ams", reach(30 + number, 20 * number, retransmitted=30), 10.0 * number)
    assert readings.reach_ms("ams", APP, 60) == pytest.approx(20, abs=10)


def test_what_was_measured_long_ago_is_not_known() -> None:
    readings = Readings()
    readings.take("ams", reach(2, 40), 0)
    assert readings.reach_ms("ams", APP, STALE_S) == 20
    assert readings.reach_ms("ams", APP, STALE_S + 1) is None


@pytest.mark.parametrize(
    ("told", "legs_ms"),
    [
        (leg(20), {"fra": 20}),
        (leg(20, is_down=True), {"fra": math.inf}),
        (leg(20, age_ms=10_500), {"fra": math.inf}),
        (leg(0, answers=0), {}),  # it was only just asked
        (leg(0, answers=0, is_down=True), {"fra": math.inf}),
    ],
)
def test_legs_to_other_edges(told: Steering, legs_ms: dict[str, float]) -> None:
    readings = Readings()
    readings.take("ams", told, 0)
    assert readings.legs_ms("ams") == legs_ms


def test_edges_and_applications_that_are_gone_are_forgotten() -> None:
    readings = Readings()
    readings.take("ams", Steering(7, leg(20).legs, reach(2, 40).reach), 0)
    readings.forget({"ams"}, set())
    assert readings.legs_ms("ams") and readings.reach_ms("ams", APP, 0) is None
    readings.forget(set(), set())
    assert not readings.legs_ms("ams")
