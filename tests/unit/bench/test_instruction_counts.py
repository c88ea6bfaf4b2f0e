"""A unit of work takes no more instructions of ours than it did when they were last counted.

Wall-clock figures stay in reports; this one is the same on a busy machine.
"""

import instructions
import pytest

pytestmark = pytest.mark.alone

MOST_GROWTH, MOST_SHRINKAGE = 1.10, 0.70


@pytest.fixture(scope="module")
def counted() -> dict[str, int]:
    if reason := instructions.cannot_count():
        pytest.skip(f"callgrind cannot count here: {reason}")
    return instructions.count_all()


@pytest.mark.slow
@pytest.mark.parametrize("unit", list(instructions.UNITS))
def test_a_unit_takes_about_as_many_instructions_as_are_stored(counted: dict[str, int], unit: str) -> None:
    kept = instructions.stored()
    now, before = counted[unit], kept["instructions"][unit]
    compiler = instructions.compiler()
    said = f"{unit}: {now:,} instructions, {before:,} stored ({now / before - 1:+.1%}) in {instructions.STORED.name}"
    if compiler != kept["compiler"]:
        said += f"; counted with {compiler}, stored with {kept['compiler']}"
    assert now <= before * MOST_GROWTH, f"{said}. Find what grew; if it is worth it, run: make instructions"
    assert now >= before * MOST_SHRINKAGE, f"{said}. Well done; keep it so that it cannot creep back: make instructions"
