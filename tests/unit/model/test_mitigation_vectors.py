"""What passes between engine and Python of automatic mitigation: the same JSON on both sides."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from causeway.model.mitigation import Look, Plan, PlanReport, decode_look, decode_plan, decode_plan_report

VECTORS = Path(__file__).parents[3] / "vectors" / "mitigation"
CASES: list[tuple[str, Any, type]] = [
    ("plan.json", decode_plan, Plan),
    ("look.json", decode_look, Look),
    ("plan_report.json", decode_plan_report, PlanReport),
]


@pytest.mark.parametrize(("file", "decode", "kind"), CASES)
def test_what_the_engine_writes_is_read_and_written_the_same(file: str, decode: Any, kind: type) -> None:
    text = (VECTORS / file).read_text()
    read = decode(text)
    assert isinstance(read, kind)
    assert json.loads(msgspec.json.encode(read)) == json.loads(text)


def test_an_empty_plan_is_an_empty_object() -> None:
    assert msgspec.json.encode(Plan()) == b"{}"
