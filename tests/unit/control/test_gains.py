"""First bytes of flows over other edges against those of direct ones: of the last minutes, and what each part is."""

import pytest

from causeway.control.gains import LEAST_FLOWS, WINDOW_S, Gain, Gains, quantile_ms
from causeway.model.report import FirstBytes, GainsSeen

APPLICATION = "0123456789abcdef0123456789abcdef"


def told(direct: tuple[int, int], over: tuple[int, int]) -> GainsSeen:
    """Each: how many flows, and how long every one of them took, in milliseconds: 64 or 256."""
    bucket = {64: "24", 256: "32"}
    times = [FirstBytes({bucket[ms]: flows} if flows else {}, flows * ms) for flows, ms in (direct, over)]
    return GainsSeen(APPLICATION, *times)


def only(gains: Gains) -> Gain:
    [found] = gains
    return found


def test_what_is_gained_is_the_way_and_connections_that_are_there() -> None:
    gains = Gains()
    gains.take("par", told((0, 256), (0, 64)), 0, lambda: 100.0)
    gains.take("par", told((10, 256), (20, 64)), 1, lambda: 100.0)
    gain = only(gains)
    assert (gain.direct.flows, gain.direct.mean_ms, gain.over.flows, gain.over.mean_ms) == (10, 256, 20, 64)
    assert (gain.total_ms, gain.routing_ms, gain.connections_ms, gain.why_not) == (192, 100, 92, None)
    assert (gain.direct.histogram[32], gain.over.histogram[24]) == (10, 20)


def test_what_a_round_trip_saves_is_weighed_by_the_flows_that_had_it() -> None:
    gains = Gains()
    gains.take("par", told((10, 256), (0, 64)), 0, lambda: None)
    gains.take("par", told((20, 256), (10, 64)), 1, lambda: 100.0)
    gains.take("par", told((20, 256), (40, 64)), 2, lambda: 20.0)
    gains.take("par", told((20, 256), (90, 64)), 3, lambda: None)
    assert only(gains).routing_ms == 40


@pytest.mark.parametrize(
    ("direct", "over", "why_not"),
    [
        (LEAST_FLOWS - 1, 100, "7 flows have gone direct; a comparison takes 8"),
        (100, LEAST_FLOWS - 1, "7 flows have gone over other edges; a comparison takes 8"),
    ],
)
def test_of_few_flows_no_gain_is_told(direct: int, over: int, why_not: str) -> None:
    gains = Gains()
    gains.take("par", told((0, 256), (0, 64)), 0, lambda: 100.0)
    gains.take("par", told((direct, 256), (over, 64)), 1, lambda: 100.0)
    gain = only(gains)
    assert (gain.total_ms, gain.routing_ms, gain.connections_ms, gain.why_not) == (None, None, None, why_not)


def test_flows_are_those_of_the_last_minutes_and_of_all_processes_of_an_edge() -> None:
    gains = Gains()
    gains.take("par", told((1000, 256), (1000, 64)), 0, lambda: 1.0)  # before anybody looked
    assert only(gains).direct.flows == 0
    gains.take("par", told((1010, 256), (1000, 64)), 30, lambda: 1.0)
    gains.take("par", told((5, 256), (0, 64)), 60, lambda: 1.0)  # started anew
    assert only(gains).direct.flows == 15
    gains.take("par", told((6, 256), (0, 64)), 60 + WINDOW_S, lambda: 1.0)
    assert only(gains).direct.flows == 1, "what has come within the window"
    gains.take("par", told((6, 256), (0, 64)), 61 + 2 * WINDOW_S, lambda: 1.0)
    assert only(gains).direct.flows == 0


def test_what_is_gone_is_forgotten() -> None:
    gains = Gains()
    gains.take("par", told((1, 256), (1, 64)), 0, lambda: 1.0)
    gains.forget({"par"}, {APPLICATION})
    assert only(gains).edge == "par"
    gains.forget({"lon"}, {APPLICATION})
    assert list(gains) == []


def test_quantiles_are_within_their_bucket() -> None:
    histogram = [0] * 56
    assert quantile_ms(tuple(histogram), 0.5) is None
    histogram[24] = 10
    assert 2 ** (23 / 4) < (quantile_ms(tuple(histogram), 0.1) or 0) < (quantile_ms(tuple(histogram), 0.9) or 0) <= 64
    assert quantile_ms(tuple(histogram), 1.0) == 64
    histogram[55] = 100
    assert quantile_ms(tuple(histogram), 0.5) == 2 ** (54 / 4), "longer than all bounds"
