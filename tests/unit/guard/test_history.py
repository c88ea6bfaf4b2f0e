"""What is usual, and what is too much."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from causeway.guard.history import THRESHOLDS, Bounds, History

DAY_S = 86_400


def test_a_percentile_is_right_within_nine_percent() -> None:
    history = History()
    for at in range(10_000):
        history.add(float(at % 1_000), at)
    assert 950 <= (history.usual() or 0) <= 950 * 1.1


def test_nothing_is_known_in_the_first_minute() -> None:
    history = History()
    for at in range(59):
        history.add(1e6, at)
    assert history.usual() is None
    history.add(1e6, 60)
    assert history.usual() is not None


def test_what_was_eight_days_ago_is_forgotten() -> None:
    history = History()
    for at in range(0, DAY_S, 10):
        history.add(50_000, at)
    for at in range(DAY_S, 9 * DAY_S, 60):
        history.add(100, at)
    assert (history.usual() or 0) < 120


@given(st.lists(st.floats(0, 1e9), min_size=60, max_size=200))
def test_memory_does_not_grow_with_what_is_seen(rates: list[float]) -> None:
    history = History()
    for at, rate in enumerate(rates):
        history.add(rate, at * 7_200)
    assert len(history._slots) <= 29
    assert sum(history._total.values()) == history._ticks <= len(rates)


def test_a_threshold_is_between_floor_and_cap() -> None:
    bounds = Bounds(1_000, 20_000, 4)
    cases = [(None, 1_000), (100, 1_000), (1_000, 4_000), (100_000, 20_000)]
    assert [bounds.threshold(usual) for usual, _ in cases] == [threshold for _, threshold in cases]
    floors = [THRESHOLDS[name].newcomers.floor for name in ("high", "medium", "low")]
    assert all(low < high for low, high in pairwise(floors))


def test_a_rate_that_creeps_up_trains_its_threshold_until_the_cap_stops_it() -> None:
    """Two percent more every hour for ten days: history never finds that too much, the cap does."""
    bounds, history, fired, would_have = THRESHOLDS["medium"].newcomers, History(), [], []
    for hour in range(240):
        rate = 200 * 1.02**hour
        if rate > bounds.threshold(history.usual()):
            fired.append(hour)
        if rate > max(bounds.floor, bounds.factor * (history.usual() or 0)):
            would_have.append(hour)
        for minute in range(60):
            history.add(rate, hour * 3_600 + minute * 60)
    assert would_have == []
    assert fired and fired[0] < 240 and 200 * 1.02 ** fired[0] < 1.03 * bounds.cap
