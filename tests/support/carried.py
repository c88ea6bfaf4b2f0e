"""Three networks and the edge in the middle, as the fast path wants them: client - edge - origin, over veth.

client 198.18.1.2 - edge 198.18.1.1 and 198.18.2.1 - origin 198.18.2.2, and the same with 2001:db8.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.edge import CAUSEWAY, Running
from support.namespaces import Namespaces
from support.program import Programs, environment

EDGE = {4: "198.18.1.1", 6: "2001:db8:1::1"}
CLIENT = {4: "198.18.1.2", 6: "2001:db8:1::2"}
ORIGIN = {4: "198.18.2.2", 6: "2001:db8:2::2"}


@cache
def _fast_path() -> dict[str, Any]:
    answer = subprocess.run([CAUSEWAY, "doctor", "-o", "json"], capture_output=True, check=True, env=environment())
    found: dict[str, Any] = next(c for c in json.loads(answer.stdout) if c["name"] == "fast_path")
    return found


def need_fast_path() -> None:
    """Skip the test where this machine cannot, with its reason."""
    told = _fast_path()
    if not told["available"]:
        print(told["detail"], file=sys.stderr)
        pytest.skip(f"the fast path cannot be tested here: {told['detail']}")


class Middle:
    """The three networks, and an edge that is started by the test."""

    def __init__(self, namespaces: Namespaces, programs: Programs, data_dir: Path, *flags: str) -> None:
        need_fast_path()
        self.programs = programs
        self.client, self.middle, self.origin = (namespaces.make() for _ in range(3))
        namespaces.join(self.middle, self.client, 1)
        namespaces.join(self.middle, self.origin, 2)
        addresses = ["--edge-ip", EDGE[4], "--edge-ip", EDGE[6]]
        self.edge = Running(programs, data_dir, *addresses, *flags, inside=self.middle)

    def flush(self) -> str:
        return self.down("--flush")

    def down(self, *flags: str) -> str:
        """`causeway down`; answers what it says."""
        with self.middle:
            done = subprocess.run(
                [CAUSEWAY, "down", *flags, "--data-dir", self.edge.data_dir],
                capture_output=True, text=True, env=environment(),
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def path(self) -> dict[str, Any]:
        found = self.edge.status()["edges"][0]["flow_path"]
        assert isinstance(found, dict)
        return found

    def application(self, application_id: str) -> dict[str, Any]:
        states = self.edge.result("GET", "/api/v1/applications")
        found: dict[str, Any] = next(state for state in states if state["id"] == application_id)
        return found
