"""The units of systemd in packaging: systemd takes them, and the command line takes their commands."""

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from causeway.cli.main import app

PACKAGING = Path(__file__).parents[3] / "packaging"
UNITS = sorted(PACKAGING.glob("*.service"))
PROGRAM = "/opt/causeway/bin/causeway"


def command(unit: Path) -> list[str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit.read_text())
    return shlex.split(parser["Service"]["ExecStart"])


def test_there_is_a_unit_for_each_role() -> None:
    assert {command(unit)[1] for unit in UNITS} == {"up", "edge", "control"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_command_line_takes_its_command_and_keeps_its_data_where_systemd_lets_it(unit: Path) -> None:
    program, role, *flags = command(unit)
    assert program == PROGRAM
    group = typer.main.get_command(app)
    with group.make_context("causeway", [role]) as context:
        taken = group.get_command(context, role)  # type: ignore[attr-defined]
        read = taken.make_context(role, flags, parent=context).params  # parsed, not run
    assert str(read["data_dir"]) == f"/var/lib/{unit.stem}"
    assert f"StateDirectory={unit.stem}\n" in unit.read_text()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = shutil.which("true")
    assert program
    there = tmp_path / unit.name
    there.write_text(unit.read_text().replace(PROGRAM, program))
    done = subprocess.run(["systemd-analyze", "verify", there], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
