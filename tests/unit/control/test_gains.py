"""What smart routing is worth: counts of edges become a comparison of the last minutes, or the reason for none."""

import math
from itertools import pairwise
from typing import Any

import pytest

from causeway.control.gains import LEAST, WINDOW_S, Gains
from causeway.model.report import GainsSeen, WaitsSeen
from causeway.model.waits import BUCKETS, Waits, bounds_ms

APP, DIRECT_MS, OVER_MS = "a" * 32, 240.0, 62.0


def bucket(ms: float) -> int:
    return next(at for at in range(BUCKETS) if bounds_ms(at)[0] <= ms < bounds_ms(at)[1])


def waits(flows: int, ms: float) -> WaitsSeen:
    return WaitsSeen(round(flows * ms * 1000), [(bucket(ms), flows)] if flows else [])


def told(direct: int, over: int) -> list[GainsSeen]:
    return [GainsSeen(APP, waits(direct, DIRECT_MS), waits(over, OVER_MS))]


def gained(*reports: tuple[float, list[GainsSeen]], at_s: float, way_ms: float | None = 40.0) -> Any:
    gains = Gains()
    for when_s, report in reports:
        gains.take("par", report, when_s)
    return gains.of("par", APP, at_s, 120.0, way_ms)


def test_a_gain_is_told_apart_into_the_way_and_the_connection_that_was_ready() -> None:
    direct, over, gain = gained((0, []), (1, told(LEAST, 500)), at_s=2)
    assert (direct.count, over.count) == (LEAST, 500)
    assert (direct.mean_ms, over.mean_ms) == (DIRECT_MS, OVER_MS)
    assert (gain.mean_ms, gain.routing_ms, gain.connection_ms) == (178, 80, 98)
    assert gain.p50_ms == pytest.approx(178, rel=0.15)
    assert gain.reason is None


@pytest.mark.parametrize(
    ("direct", "over", "lacks"), [(LEAST - 1, 500, "direct"), (500, 3, "over other edges"), (0, 0, "over")]
)
def test_too_few_flows_of_one_kind_are_no_comparison(direct: int, over: int, lacks: str) -> None:
    *_, gain = gained((0, []), (1, told(direct, over)), at_s=2)
    assert (gain.mean_ms, gain.p50_ms, gain.routing_ms, gain.connection_ms) == (None, None, None, None)
    assert "too few" in gain.reason and lacks in gain.reason


@pytest.mark.parametrize("way_ms", [None, math.inf])
def test_where_the_ways_are_not_measured_what_flows_took_is_said_without_its_parts(way_ms: float | None) -> None:
    *_, gain = gained((0, []), (1, told(LEAST, 500)), at_s=2, way_ms=way_ms)
    assert (gain.mean_ms, gain.routing_ms, gain.connection_ms) == (178, None, None)
    assert gain.reason


def test_what_an_edge_had_counted_before_it_was_heard_of_is_of_no_known_time() -> None:
    direct, over, _ = gained((0, told(50, 60)), (1, told(51, 63)), at_s=2)
    assert (direct.count, over.count) == (1, 3)


def test_an_edge_that_was_started_anew_counts_from_nothing() -> None:
    direct, over, _ = gained((0, []), (1, told(50, 60)), (2, told(1, 2)), at_s=2)
    assert (direct.count, over.count) == (51, 62)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    reports = [(0, []), (1, told(50, 60)), (400, told(51, 62)), (400, told(51, 62))]
    assert [of.count for of in gained(*reports, at_s=WINDOW_S - 1)[:2]] == [51, 62]
    assert [of.count for of in gained(*reports, at_s=WINDOW_S + 60)[:2]] == [1, 2]
    assert [of.count for of in gained(*reports, at_s=3 * WINDOW_S)[:2]] == [0, 0]


def test_an_edge_that_is_gone_takes_its_counts_with_it() -> None:
    gains = Gains()
    gains.take("par", [], 0)
    gains.take("par", told(50, 60), 1)
    gains.forget({"ams"})
    assert gains.of("par", APP, 2, 1, 1)[0].count == 0


def test_buckets_touch_and_are_an_eighth_wide_from_the_first_to_the_last() -> None:
    bounds = [bounds_ms(at) for at in range(BUCKETS)]
    assert (bounds[0], bounds[1], bounds[8], bounds[9]) == ((0, 0.128), (0.128, 0.144), (0.24, 0.256), (0.256, 0.288))
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    assert bounds[-1][1] == math.inf


def test_quantiles_lie_within_the_bucket_of_their_rank() -> None:
    some = Waits(0, {bucket(10): 50, bucket(40): 45, bucket(300): 5})
    assert [bucket(some.quantile_ms(at) or 0) for at in (0.25, 0.9, 0.99)] == [bucket(10), bucket(40), bucket(300)]
    assert Waits().quantile_ms(0.5) is None
