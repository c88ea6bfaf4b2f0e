"""Wait for a claim to come true, and say what was there instead if it never does."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

Value = TypeVar("Value")


def eventually(look: Callable[[], Value], within_s: float = 5.0, every_s: float = 0.02) -> Value:
    """Look until the answer is true, and return it; an OSError or a failed assert counts as not yet."""
    end = time.monotonic() + within_s
    while True:
        last: object
        try:
            last = value = look()
            if value:
                return value
        except (OSError, AssertionError, httpx.HTTPError) as error:
            last = error
        assert time.monotonic() < end, f"not within {within_s:g} s; the last answer was {last!r}"
        time.sleep(every_s)
