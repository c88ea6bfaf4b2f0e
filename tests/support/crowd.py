"""Clients with addresses of their own, made by bench/load in a namespace that has all of 198.19.0.0/16.

client 198.18.1.2 and 198.19.* - edge 198.18.1.1, with origins on the edge's own loopback: the engine serves.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.edge import CAUSEWAY, Running
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Program, Programs, environment

REPOSITORY = Path(__file__).resolve().parents[2]
EDGE = "198.18.1.1"
ECHO, SOURCE, UDP_ECHO = 7001, 7003, 7004  # of causeway-load origin
ORIGIN_S = 300
USERS = "198.19.1.1-198.19.1.50"
ATTACKERS = "198.19.2.0-198.19.2.63"


def load_program() -> Path:
    """Build bench/load; skips where that cannot be done."""
    if os.geteuid():
        pytest.skip("network namespaces need root")
    if not shutil.which("cargo"):
        pytest.skip("not installed: a Rust toolchain")
    cargo = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "causeway-load"]
    subprocess.run(cargo, cwd=REPOSITORY, check=True)
    asked = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"]
    described = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, check=True)
    return Path(json.loads(described.stdout)["target_directory"]) / "release" / "causeway-load"


class Place:
    """Two networks and an edge that the test starts, with the load program's origins behind it."""

    def __init__(self, namespaces: Namespaces, programs: Programs, make_edge: Callable[..., Running]) -> None:
        self.load, self.programs = load_program(), programs
        self.client, self.middle = namespaces.make(), namespaces.make()
        namespaces.join(self.middle, self.client, 1)
        self.client.ip("route", "add", "local", "198.19.0.0/16", "dev", "lo")
        self.middle.ip("route", "add", "198.19.0.0/16", "via", "198.18.1.2")
        for namespace in (self.client, self.middle):
            namespace.setting("ipv4/ip_local_port_range", "1024 65000")
        origin = ["origin", "--bind", "127.0.0.1", "--max-seconds", str(ORIGIN_S)]
        # It ends when nobody holds its standard input any more; ours is closed with the process.
        command = ["sh", "-c", f"sleep {ORIGIN_S} | exec {self.load} {' '.join(origin)}"]
        self.origin = programs.start(*command, inside=self.middle)
        self._make_edge = make_edge
        self._edges: list[Running] = []

    def edge(self, *flags: str, **more: Any) -> Running:
        made = self._make_edge("--edge-ip", EDGE, "--allow-loopback-origins", *flags, inside=self.middle, **more)
        self._edges.append(made)
        return made.start()

    def end(self) -> None:
        """End the edges, and take out of the kernel what they leave in force."""
        for edge in self._edges:
            edge.close()
            edge.kill_all()
            with self.middle:
                flush = [CAUSEWAY, "down", "--flush", "--data-dir", edge.data_dir]
                subprocess.run(flush, check=True, capture_output=True, env=environment())

    def run(self, *words: str) -> Program:
        """Start a mode of the load program on the client's side."""
        return self.programs.start(self.load, *words, inside=self.client)

    def told(self, program: Program, within_s: float) -> dict[str, Any]:
        """What it printed last, once it has ended."""
        assert program.wait(within_s) == 0, program.output
        found: dict[str, Any] = json.loads(program.output.splitlines()[-1])
        return found

    def users(self, port: int, seconds: int, *more: str) -> Program:
        """200 connections/s and 1,000 requests/s on 200 long connections, of 50 sources."""
        words = ["--to", f"{EDGE}:{port}", "--seconds", str(seconds), "--sources", USERS]
        program = self.run("keep", *words, *more)
        eventually(lambda: "ready" in program.output, 10)
        return program

    def attack(self, port: int, rate: int, seconds: float, *more: str, sources: str = ATTACKERS) -> Program:
        words = ["--to", f"{EDGE}:{port}", "--rate", str(rate), "--seconds", str(seconds), "--sources", sources]
        return self.run("crowd", *words, *more)


def kept(told: dict[str, Any], what: str, first: int = 0, last: int | None = None) -> float:
    seconds = [second[what] for second in told["seconds"][first:last]]
    return sum(s["kept"] for s in seconds) / max(1, sum(s["due"] for s in seconds))


def detections(edge: Running, kind: str) -> list[dict[str, Any]]:
    """From the edge's own report."""
    found = edge.status()["edges"][0].get("detections", [])
    return [one for one in found if one["kind"] == kind]
