"""The tests' own reader of a Minecraft client's first packet agrees with the engine's, on the same vectors."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.minecraft import Greeting, Refused, handshake, read_greeting

VECTORS = Path(__file__).parents[2] / "vectors/minecraft/greeting.json"
CASES = [pytest.param(case, id=case["name"]) for case in json.loads(VECTORS.read_text())]


def answer(data: bytes) -> Greeting | str | None:
    try:
        return read_greeting(data)
    except Refused as refused:
        return str(refused)


@pytest.mark.parametrize("case", CASES)
def test_every_prefix_needs_more_until_the_byte_that_decides(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["hex"])
    if case.get("need_more"):
        assert {answer(data[:end]) for end in range(len(data) + 1)} == {None}
        return
    expected: Greeting | str
    if "error" in case:
        expected, decided_at = case["error"], case["decided_at"]
    elif case.get("legacy"):
        expected, decided_at = "legacy", 1
    else:
        expected, decided_at = Greeting(case["consumed"], case["protocol"], case["next"]), case["consumed"]
    for end in range(len(data) + 1):
        assert answer(data[:end]) == (expected if end >= decided_at else None), f"first {end} bytes"
    for trailer in (b"\x00", b"\x01\x00", b"\xff" * 5000):
        assert answer(data + trailer) == expected


def test_what_the_tests_say_is_a_handshake() -> None:
    assert read_greeting(handshake(2)) == Greeting(len(handshake(2)), 767, "login")
