"""What a line of `causeway edges` says of an edge."""

from typing import Any

import pytest

from causeway.cli.edges import state_text


def edge(version: int = 7, is_draining: bool = False, refused: int = 0, **remote: Any) -> Any:
    told = {"is_silent": False, "silent_s": 0.4, "trouble": None, "is_drained": False, **remote}
    known: dict[str, Any] = {"version": version, "is_draining": is_draining, "refused": [{}] * refused}
    return known | ({"remote": told} if remote else {})


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (edge(), "serving"),
        (edge(refused=1), "serving, 1 listener refused"),
        (edge(refused=2), "serving, 2 listeners refused"),
        (edge(version=6, trouble=None), "behind"),
        (edge(version=9, trouble=None), "serving"),
        (edge(version=6, is_held=True), "serving, a change waits"),
        (edge(version=6, is_held=True, trouble="it does not answer"), "behind: it does not answer"),
        (edge(version=6, trouble="it has no memory left"), "behind: it has no memory left"),
        (edge(is_draining=True, trouble="x"), "draining"),
        (edge(is_drained=True), "drained"),
        (edge(is_drained=True, trouble="it does not answer"), "behind: it does not answer"),
        (edge(is_draining=True, is_silent=True, silent_s=75.0), "silent for 1 min 15 s"),
    ],
)
def test_the_most_pressing_is_said(told: Any, state: str) -> None:
    assert state_text(told, 7) == state


@pytest.mark.parametrize(
    ("states", "trouble", "text"),
    [
        (["announced"], None, "serving, announced 198.18.0.0/32"),
        (["announced", "withdrawn"], None, "serving, announced 198.18.0.0/32, withdrawn 198.18.1.0/32"),
        (["announced"], "BIRD is not there", "serving; anycast: see causeway status"),
    ],
)
def test_what_routers_are_told_is_said(states: list[str], trouble: str | None, text: str) -> None:
    prefixes = [{"prefix": f"198.18.{n}.0/32", "state": state} for n, state in enumerate(states)]
    assert state_text({**edge(), "anycast": {"prefixes": prefixes, "trouble": trouble}}, 7) == text
