"""`causeway routes replay` from file to file: what it prints and writes, and what it says of files it cannot use."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.meshes import volatile

from causeway.routing.replay import replay

PROGRAM = [sys.executable, "-c", "from causeway.cli.main import run; run()", "routes", "replay"]
NEEDED = ["--train", "10", "--slice-s", "16", "--relay-cost-ms", "1"]


def _replay(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    path = tmp_path / "measured.npz"
    np.savez(path, rtt_ms=volatile(30, 8, seed=3))
    return path


def test_choices_are_written_and_the_bill_is_printed(measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    answer = _replay(measured, *NEEDED, "--choices", out, "-o", "json")
    assert (answer.returncode, answer.stderr) == (0, "")
    told = json.loads(answer.stdout)
    expected = replay(volatile(30, 8, seed=3), 10, 16, 1)
    assert np.array_equal(np.load(out)["choice"], expected.choice)
    assert np.load(out)["choice"].dtype == np.int16
    assert told["chosen_ms"] == pytest.approx(expected.outcome.chosen_ms)
    assert told["gain"] == pytest.approx(1 - told["chosen_ms"] / told["direct_ms"])
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("measured.npz", "out.npz")] == []


def test_the_table_names_what_an_operator_asks_for(measured: Path) -> None:
    answer = _replay(measured, *NEEDED, "--relays", "3")
    assert answer.returncode == 0
    for words in ("56, 20, 3", "direct, mean", "chosen, mean", "gain", "switches per pair", "more than 5 % slower"):
        assert words in answer.stdout
    assert "without a path" not in answer.stdout, "nothing was missing"


def test_missing_measurements_are_told(tmp_path: Path) -> None:
    mesh = volatile(30, 8, seed=3)
    mesh[20:, 1] = np.nan
    np.savez(tmp_path / "gaps.npz", rtt_ms=mesh)
    answer = _replay(tmp_path / "gaps.npz", *NEEDED)
    assert answer.returncode == 0
    assert "without a path, direct" in answer.stdout


REFUSED = [  # words, exit code, what is said
    (["--train", "30"], 2, "30 slices to learn from, of 30"),
    (["--train", "0"], 2, "0 slices to learn from"),
    (["--train", "many"], 2, "--train"),
    (["--slice-s", "0"], 2, "--slice-s 0"),
    (["--slice-s", "nan"], 2, "--slice-s nan"),
    (["--relay-cost-ms", "-1"], 2, "--relay-cost-ms -1"),
    (["--relays", "-1"], 2, "--relays -1"),
    (["--choices", "/nowhere/out.npz"], 2, "/nowhere/out.npz cannot be written"),
]


@pytest.mark.parametrize(("words", "code", "said"), REFUSED)
def test_what_cannot_be_done_is_refused_with_the_value(measured: Path, words: list[str], code: int, said: str) -> None:
    answer = _replay(measured, *NEEDED, *words)
    assert (answer.returncode, answer.stdout) == (code, "")
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


FILES = [  # content, exit code, what is said
    (None, 1, "does not exist"),
    (b"", 2, "is no .npz file"),
    (b"no numbers", 2, "is no .npz file"),
    ({"other": np.zeros(3)}, 2, "has no array rtt_ms; it has other"),
    ({"rtt_ms": np.zeros((4, 4))}, 2, "shape (4, 4)"),
    ({"rtt_ms": np.full((30, 4, 4), -1.0)}, 2, "rtt_ms[0, 0, 0] is -1"),
    ({"rtt_ms": np.array([{}, None])}, 2, "cannot be read"),
]


@pytest.mark.parametrize(("content", "code", "said"), FILES)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, content: bytes | dict | None, code: int, said: str
) -> None:
    path = tmp_path / "measured.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    answer = _replay(path, *NEEDED, "--choices", tmp_path / "out.npz")
    assert (answer.returncode, answer.stdout) == (code, "")
    assert f"{path}" in answer.stderr
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "out.npz").exists()
