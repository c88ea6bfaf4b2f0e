"""The brake on guessing tokens: per client, for a while, in bounded memory."""

import pytest

from causeway.api.auth import _ADDRESSES, _FAILURES, _WINDOW_S, Brake
from causeway.model.problem import Code, Problem


def waits(brake: Brake, client: str, now_s: float) -> int | None:
    """Fail once; how long the client is told to wait."""
    try:
        brake.failed(client, now_s)
    except Problem as problem:
        assert problem.code is Code.TOO_MANY_LOGINS
        assert problem.status == 429
        return problem.retry_after_s
    return None


def test_the_first_failures_are_free_then_the_client_waits_for_the_window() -> None:
    brake = Brake()
    assert [waits(brake, "192.0.2.1", 0.0) for _ in range(_FAILURES)] == [None] * _FAILURES
    assert waits(brake, "192.0.2.1", 10.0) == _WINDOW_S - 10 + 1
    assert waits(brake, "192.0.2.1", _WINDOW_S - 0.1) == 1, "never 0: a client would ask again at once"
    assert waits(brake, "192.0.2.1", _WINDOW_S) is None, "a new window"


CLIENTS = [  # one                     another                    count together
    ("192.0.2.1", "192.0.2.2", False),
    ("2001:db8::1", "2001:db8::ffff:1", True),
    ("2001:db8::1", "2001:db8:0:1::1", False),
    ("2001:db8::1", "192.0.2.1", False),
    ("", "192.0.2.1", False),
]


@pytest.mark.parametrize(("one", "another", "is_together"), CLIENTS)
def test_who_counts_as_the_same_client(one: str, another: str, is_together: bool) -> None:
    brake = Brake()
    for _ in range(_FAILURES):
        waits(brake, one, 0.0)
    assert (waits(brake, another, 0.0) is not None) is is_together


def test_a_crowd_of_addresses_eats_no_memory_and_frees_nobody_who_goes_on() -> None:
    brake = Brake()
    for _ in range(_FAILURES):
        waits(brake, "192.0.2.1", 0.0)
    for number in range(3 * _ADDRESSES):
        waits(brake, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1.0)
        if number % 1000 == 0:
            assert waits(brake, "192.0.2.1", 1.0)
    assert len(brake._failures) == _ADDRESSES
