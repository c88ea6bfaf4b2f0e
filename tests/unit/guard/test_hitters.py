"""The heaviest are found in little memory."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from causeway.guard.hitters import Hitters


@given(st.lists(st.integers(0, 60), max_size=400), st.integers(1, 20))
def test_counts_are_never_too_low_and_too_high_by_a_share_at_most(keys: list[int], room: int) -> None:
    hitters, truth = Hitters[int](room), Counter(keys)
    for key in keys:
        hitters.add(key)
    kept = {hitter.key: hitter for hitter in hitters.top(room)}
    assert len(kept) <= room
    for key, hitter in kept.items():
        assert hitter.weight - hitter.too_high_by <= truth[key] <= hitter.weight
        assert hitter.too_high_by <= len(keys) / room
    assert all(key in kept for key, count in truth.items() if count > len(keys) / room)


def test_a_share_counts_only_what_is_sure() -> None:
    hitters = Hitters[int](8)
    for key in range(1_000):
        hitters.add(key)
    assert hitters.share_of(8) < 0.05
    for _ in range(1_000):
        hitters.add(-1)
    assert hitters.share_of(1) > 0.4
