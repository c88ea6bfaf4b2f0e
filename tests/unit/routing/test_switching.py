"""Two speeds: away from a failed path at once, to a better one when what it saves is more than a switch costs."""

import numpy as np
import pytest

from causeway.routing.switching import DAMPING_HALF_LIFE_S, Held, move

PRICE_MS = np.full((1, 1), 100, dtype=np.float32)
LASTS = np.array([10], dtype=np.float32)  # slices


def _moved(costs: list[float], held: Held, at_s: float = 0.0) -> int:
    move(held, np.array(costs, dtype=np.float32).reshape(1, -1, 1), LASTS, PRICE_MS, at_s)
    return int(held.candidate[0, 0])


INF = float("inf")
CASES = [  # direct, relay 1, relay 2  taken  because
    ([50, 45, INF], 0),  # 10 slices of 5 ms are not worth 100
    ([50, 39, INF], 1),  # 110 are
    ([50, 39, 38], 2),
    ([INF, 900, INF], 1),  # failed: whatever else there is
    ([INF, 900, 800], 2),
    ([INF, INF, INF], 0),  # nothing to move to
]


@pytest.mark.parametrize(("costs", "taken"), CASES)
def test_from_the_direct_path(costs: list[float], taken: int) -> None:
    assert _moved(costs, Held.nothing(1, 1)) == taken


def test_a_failed_relay_is_left_at_once_and_for_direct_when_nothing_else_is_left() -> None:
    held = Held.nothing(1, 1)
    assert _moved([INF, 50, INF], held) == 1
    assert _moved([500, INF, INF], held) == 0
    assert _moved([INF, 50, INF], held) == 1
    assert _moved([INF, INF, INF], held) == 0


def test_a_path_that_was_just_left_must_save_more_and_in_time_no_more() -> None:
    def back_after(seconds: float, saves_ms: float) -> bool:
        held = Held.nothing(1, 1)
        assert _moved([50, 30, INF], held, at_s=0) == 1
        return _moved([30, 30 + saves_ms, INF], held, at_s=seconds) == 0

    assert not back_after(1, saves_ms=14)
    assert back_after(1, saves_ms=16)
    assert back_after(4 * DAMPING_HALF_LIFE_S, saves_ms=11)


def test_damping_never_keeps_a_failed_path() -> None:
    held = Held.nothing(1, 1)
    assert _moved([50, 30, INF], held, at_s=0) == 1
    assert _moved([3_000, INF, INF], held, at_s=1) == 0
