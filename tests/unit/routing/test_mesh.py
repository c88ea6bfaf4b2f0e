"""Measurements are checked once: what is wrong with them is said with the value, what is missing has one meaning."""

import numpy as np
import pytest

from causeway.routing.mesh import FLOOR_MS, MalformedMesh, checked

GOOD = np.full((3, 4, 4), 20.0)


def _with(value: float) -> np.ndarray:
    mesh = GOOD.copy()
    mesh[1, 2, 3] = value
    return mesh


MALFORMED = [
    (GOOD[0], "has the shape (4, 4)"),
    (GOOD[:, :3], "has the shape (3, 3, 4)"),
    (GOOD[:, :1, :1], "of 1 nodes"),
    (GOOD.astype(complex), "complex128"),
    (GOOD.astype(str), "real numbers"),
    (GOOD.astype(bool), "real numbers"),
    (_with(-0.5), "rtt_ms[1, 2, 3] is -0.5"),
    (_with(-np.inf), "rtt_ms[1, 2, 3] is -inf"),
]


@pytest.mark.parametrize(("mesh", "words"), MALFORMED)
def test_what_cannot_be_used_is_refused_with_the_reason(mesh: np.ndarray, words: str) -> None:
    with pytest.raises(MalformedMesh) as refused:
        checked(mesh)
    assert words in str(refused.value)


VALUES = [  # measured, means
    (0.0, FLOOR_MS),
    (np.nan, np.inf),
    (np.inf, np.inf),
    (1e300, np.inf),
    (0.01, 0.1),
    (7.0, 7.0),
]


@pytest.mark.parametrize(("measured", "means"), VALUES)
def test_zero_is_below_five_and_missing_is_no_path(measured: float, means: float) -> None:
    assert checked(_with(measured))[1, 2, 3] == np.float32(means)


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int32, np.uint8])
def test_any_real_number_will_do(kind: type) -> None:
    assert checked(GOOD.astype(kind)).dtype == np.float32
