"""Automatic mitigation on a wire: an edge that nobody has told anything is flooded, and answers by itself.

In the short form, at 60,000 packets/s; `python tests/attacks/mitigated.py` does the same as hard as the machine can.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.carried import need_fast_path

pytestmark = pytest.mark.alone

MITIGATED = Path(__file__).resolve().parent / "mitigated.py"
RATE_PER_S = 60_000
# A busy machine may lose a second to something else; a wrong answer loses nearly all of one kind.
LEAST = 0.9
# An idle machine answers in 0.5 to 0.9 s; one that compiles beside it looks late. The goal itself is measured by hand.
ANSWERED_WITHIN_MS = 5_500
CASES = [  # attack, carrier, what it is called
    ("spoofed-SYN", "engine", "spoofed_syn"),
    ("ACK-of-nothing", "engine", "ack"),
    ("random-UDP", "kernel", "udp"),
    ("random-UDP", "engine", "udp"),
]


@pytest.mark.parametrize(("attack", "carrier", "kind"), CASES)
def test_an_edge_that_is_flooded_helps_itself(attack: str, carrier: str, kind: str) -> None:
    need_fast_path()  # the guard wants the same of the machine
    words = [sys.executable, MITIGATED, attack, carrier, str(RATE_PER_S), "6"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    if "the kernel makes no packets" in done.stderr:
        pytest.skip(f"no flood can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["strays"] == 0
    # The first looks have few samples: a flood of SYNs may be called by its neighbours' names until there are more.
    names = {"spoofed_syn", "syn", "connections"} if kind == "spoofed_syn" else {kind}
    assert names & set(found["kinds"]), found["log"]
    assert found["answered_after_ms"] and min(found["answered_after_ms"]) <= ANSWERED_WITHIN_MS, found["log"]
    assert (found["broken"], found["wrong"]) == (0, 0)
    assert all(share >= LEAST for share in found["kept"].values()), found
