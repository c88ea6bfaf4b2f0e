"""The short form of `make test-attacks`: floods of 50,000 packets/s, far below what it is measured with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.carried import need_fast_path

pytestmark = pytest.mark.alone

RUN = Path(__file__).resolve().parent / "run.py"
FLOODS = {
    "causeway": "spoofed-SYN,ACK-of-nothing,random-UDP",
    "fast-path": "spoofed-SYN,ACK-of-nothing,impossible-flags,reflected-SYN-ACK,random-UDP,fragments",
}
RATE_PER_S = 50_000
# A busy machine may lose a second to something else; a flood that gets through loses nearly all.
LEAST = 0.9


@pytest.mark.parametrize("carrier", FLOODS)
def test_who_is_a_client_already_or_becomes_one_is_served_while_somebody_floods(carrier: str, tmp_path: Path) -> None:
    if carrier == "fast-path":
        need_fast_path()
    results = tmp_path / "results.json"
    words = ["--contestants", carrier, "--only", FLOODS[carrier], "--rate", str(RATE_PER_S)]
    words += ["--quiet", "1", "--seconds", "4"]
    done = subprocess.run(
        [sys.executable, RUN, *words, "--results", results], capture_output=True, text=True, timeout=300
    )
    if done.returncode == 3 or "the kernel makes no packets" in done.stderr:
        pytest.skip(f"no flood can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert found["strays"] == 0
    assert len(found["results"]) == len(FLOODS[carrier].split(",")), done.stderr
    for attack in found["results"]:
        assert all(share >= LEAST for share in attack["kept"].values()), attack
        assert (attack["broken"], attack["wrong"]) == (0, 0), attack
        assert attack["arrived"] > attack["sent"] / 2, attack
