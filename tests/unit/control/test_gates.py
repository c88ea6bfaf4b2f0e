"""May a rollout go on: reports of edges before and after, as tables."""

from dataclasses import replace

import msgspec
import pytest

from causeway.control.gates import (
    TAKE_S,
    Harm,
    Passed,
    Sight,
    Watched,
    judge,
    mass_deletion,
    picked,
    sizes,
)
from causeway.model.report import Listener, OpenFiles, PortRange, Report

BAKE_S, OPENED_S = 8.0, 100.0
PORT = ("a", "tcp", "192.0.2.1", 22, 22)
RANGE = ("a", "udp", "192.0.2.1", 30, 39)
BEFORE = Sight(uptime_ms=50_000, workers_replaced=1, refused=frozenset({PORT}), tried=100, failed=2)
LATER = replace(BEFORE, uptime_ms=60_000)
GOOD = Watched("fra-1", BEFORE, LATER, taken_s=101.0, heard_s=1_000.0)


def seen(**changes: object) -> Watched:
    """An edge that has taken the change, with another report."""
    return replace(GOOD, now=replace(LATER, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        (replace(GOOD, taken_s=None, refusal="too large"), "it refused the snapshot: too large"),
        (seen(workers_replaced=3), "2 of its workers hung"),
        (seen(refused=frozenset({PORT, RANGE})), "cannot listen on udp/30-39 of 192.0.2.1 for application a"),
        (seen(tried=110, failed=12), r"10 of 10 connects .* failed \(2% before\)"),
        (seen(tried=140, failed=12), "10 of 40 connects"),
        (seen(tried=100, failed=12), "10 of 10 connects"),
        (replace(GOOD, is_silent=True), "went silent"),
        (replace(GOOD, taken_s=None, is_silent=True), "went silent"),
        (seen(uptime_ms=900), "started anew"),
        (seen(uptime_ms=900, tried=20, failed=20), "started anew"),
        (seen(uptime_ms=900, workers_replaced=0), "started anew"),
    ],
)
def test_harm_on_one_edge_ends_it_and_says_why(edge: Watched, why: str) -> None:
    for now_s in (OPENED_S + 1, OPENED_S + 100):
        found = judge([replace(GOOD, name="ams-1"), edge], OPENED_S, now_s, BAKE_S)
        assert isinstance(found, Harm)
        with pytest.raises(ValueError, match=f"edge fra-1: .*{why}"):
            raise ValueError(found.reason)


@pytest.mark.parametrize(
    "edge",
    [
        GOOD,
        seen(refused=frozenset()),
        seen(workers_replaced=1),
        seen(tried=109, failed=11),  # nine may be chance
        seen(tried=200, failed=20),  # 18 of 100
        replace(
            seen(tried=150, failed=32), before=replace(BEFORE, failed=60), now=replace(LATER, tried=150, failed=90)
        ),
    ],
)
def test_what_is_usual_passes_once_it_was_looked_at_long_enough(edge: Watched) -> None:
    assert judge([replace(edge, heard_s=108.9)], OPENED_S, 110.0, BAKE_S) is None, "it has not said so itself"
    assert judge([replace(edge, heard_s=109.0)], OPENED_S, 110.0, BAKE_S) == Passed()
    assert judge([replace(edge, heard_s=100.9)], OPENED_S, 101.0, 0.0) is None
    assert judge([replace(edge, heard_s=101.0)], OPENED_S, 101.0, 0.0) == Passed()


def test_every_edge_of_the_stage_is_waited_for_and_not_for_ever() -> None:
    slow = replace(GOOD, name="nyc-1", taken_s=None)
    assert judge([GOOD, slow], OPENED_S, OPENED_S + TAKE_S, BAKE_S) is None
    found = judge([GOOD, slow], OPENED_S, OPENED_S + TAKE_S + 0.1, BAKE_S)
    assert found == Harm("edge nyc-1: it did not take the change within 20 s")
    assert judge([GOOD, replace(slow, taken_s=105.0, heard_s=112.9)], OPENED_S, 113.0, BAKE_S) is None
    assert judge([GOOD, replace(slow, taken_s=105.0, heard_s=113.0)], OPENED_S, 113.0, BAKE_S) == Passed()


def test_of_many_edges_one_may_go_away_by_itself_but_not_two() -> None:
    many = [replace(GOOD, name=f"e{number}") for number in range(50)]
    away = [replace(GOOD, name="x", is_silent=True), replace(GOOD, name="y", taken_s=None, is_silent=True)]
    assert judge([*many, away[0]], OPENED_S, 120.0, BAKE_S) == Passed()
    assert judge([*many, *away], OPENED_S, 120.0, BAKE_S) == Harm(
        "edge x: it went silent after it was given the change, and 1 more"
    )
    assert isinstance(judge([*many, seen(refused=frozenset({RANGE}))], OPENED_S, 120.0, BAKE_S), Harm)


@pytest.mark.parametrize(
    ("count", "found"),
    [(0, (1,)), (1, (1,)), (2, (1, 2)), (10, (1, 10)), (11, (1, 2, 11)), (20, (1, 2, 20)), (300, (1, 30, 300))],
)
def test_stages_are_one_edge_a_tenth_and_all(count: int, found: tuple[int, ...]) -> None:
    assert sizes(count) == found


def test_who_had_it_stays_and_more_come_by_name() -> None:
    assert picked((), ["c", "a", "b"], 1) == ("a",)
    assert picked(("b",), ["c", "a", "b"], 2) == ("b", "a")
    assert picked(("b", "gone"), ["c", "a", "b"], 1) == ("b", "gone")
    assert picked((), [], 3) == ()


@pytest.mark.parametrize(
    ("deleted", "served", "is_refused"), [(9, 9, False), (10, 20, False), (11, 20, True), (10, 12, True)]
)
def test_most_applications_at_once_is_no_ordinary_deletion(deleted: int, served: int, is_refused: bool) -> None:
    assert (mass_deletion(deleted, served) is not None) is is_refused


def test_a_report_is_read_for_the_applications_that_are_changed_alone() -> None:
    def refused(application: str) -> Listener:
        return Listener(application, "tcp", "192.0.2.1", PortRange(22, 22), "refused")

    report = Report(
        version=1, is_draining=False, uptime_ms=5, workers=1, open_files=OpenFiles(1, 2), totals={},
        applications=[
            {"id": "a", "connections_total": 10, "connect_errors_total": 4},
            {"id": "b", "connections_total": 90, "connect_errors_total": 90},
            {"id": "c", "connections_total": 3, "connect_errors_total": 30},
        ],
        refused=[refused("a"), refused("b")], events=msgspec.Raw(b"[]"), events_lost=0, rejected_snapshots=[],
        workers_replaced_total=2,
    )  # fmt: skip
    assert Sight.of(report, {"a", "c"}) == Sight(5, 2, frozenset({PORT}), 34, 34)
    assert Sight.of(report, {"a"}) == Sight(5, 2, frozenset({PORT}), 10, 4)
