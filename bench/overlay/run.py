"""What it costs to go over other edges: one engine alone, then two and three with TLS or QUIC between, interleaved.

Everything on loopback addresses of this machine, one worker each; ratios are to the engine alone. Prints JSON. With
--check it fails when a goal is missed. Delays and starts are `tests/netns/test_overlay_wan.py`'s, over an emulated WAN.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from machine import facts  # noqa: E402
from support.among_edges import Edges, edges  # noqa: E402
from support.bare_engine import application  # noqa: E402
from support.patience import eventually  # noqa: E402

PAR, AMS, FRA, ORIGIN = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.9"
ECHO, SINK, SOURCE, UDP_ECHO = 7001, 7002, 7003, 7004
WAYS = {"alone": [], "two edges": [["fra"]], "three edges": [["ams", "fra"]]}
WORKLOADS = {  # arguments of causeway-load, and the port of its origin
    "round trips of 64 B, 16 connections": (("rr", "--connections", "16", "--size", "64"), ECHO),
    "round trips of 64 B, one connection": (("rr", "--connections", "1", "--size", "64"), ECHO),
    "new connections": (("short", "--parallel", "16", "--close", "fin"), ECHO),
    "bulk to the origin, 4 streams": (("bulk", "--streams", "4", "--direction", "up"), SINK),
    "bulk from the origin, 4 streams": (("bulk", "--streams", "4", "--direction", "down"), SOURCE),
    "datagrams of 200 B, one at a time": (("udp", "--flows", "1", "--in-flight", "1", "--size", "200"), UDP_ECHO),
    "datagrams of 200 B, 8 x 32 under way": (("udp", "--flows", "8", "--in-flight", "32", "--size", "200"), UDP_ECHO),
    "datagrams of 1,200 B, 8 x 32 under way": (
        ("udp", "--flows", "8", "--in-flight", "32", "--size", "1200"),
        UDP_ECHO,
    ),
}
TO = (ECHO, SINK, SOURCE, UDP_ECHO)
BULK_GOAL, ADDED_GOAL_US = 0.5, 1000.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--check", action="store_true", help="1 where a goal is missed")
    parser.add_argument("--only", default="", help="workloads whose names have this in them")
    options = parser.parse_args()
    workloads = {name: told for name, told in WORKLOADS.items() if options.only in name}
    load = load_program()
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {way: [] for way in WAYS} for name in workloads}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="causeway-overlay-")))
        stack.enter_context(origin_of(load))
        made = stack.enter_context(edges(folder, {"par": PAR, "ams": AMS, "fra": FRA}))
        ports = _serve(made)
        for number in range(options.rounds):
            for name, (arguments, to) in workloads.items():
                for way in WAYS:
                    told = run_load(load, arguments, ports[way, to], options.seconds)
                    found[name][way].append(told)
                    print(f"{number + 1}/{options.rounds} {name}, {way}: {told['rate']:.4g}/s", file=sys.stderr)
    result = _result(found)
    print(json.dumps({"machine": facts(), **result}, indent=1))
    return 1 if options.check and result["missed"] else 0


def load_program() -> str:
    subprocess.run(["cargo", "build", "-q", "--release", "-p", "causeway-load"], check=True, cwd=ROOT)
    return str(ROOT / "target" / "release" / "causeway-load")


@contextmanager
def origin_of(load: str) -> Iterator[None]:
    """What all flows end at."""
    with subprocess.Popen(
        [load, "origin", "--bind", ORIGIN, "--max-seconds", "3600"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as origin:
        assert origin.stdin
        yield
        origin.stdin.close()


def _serve(made: Edges) -> dict[tuple[str, int], int]:
    """The port for each way and each port of the origin, once all of them answer."""
    ports, ingress, exits = {}, [], []
    for number, (way, to) in enumerate((way, to) for way in WAYS for to in TO):
        port, protocol = 7101 + number, "udp" if to == UDP_ECHO else "tcp"
        ports[way, to] = port
        ingress.append(application(number + 1, protocol, [PAR], port, ORIGIN, to, paths=WAYS[way]))
        if WAYS[way]:
            exits.append(application(number + 1, protocol, [], port, ORIGIN, to, exit=True))
    made.apply("fra", *exits)
    made.apply("par", *ingress)
    for way in WAYS:
        eventually(lambda way=way: answers(ports[way, ECHO]), 10)
    return ports


def answers(port: int) -> bool:
    with socket.create_connection((PAR, port), timeout=2) as connection:
        connection.sendall(b"x")
        return connection.recv(1) == b"x"


def run_load(load: str, arguments: tuple[str, ...], port: int, seconds: float) -> dict[str, float]:
    command = [load, *arguments, "--to", f"{PAR}:{port}", "--seconds", str(seconds), "--warmup", "0.5"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def _result(found: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, object]:
    """Ratios are of the same round, so that what slows the machine slows both."""
    shown: dict[str, object] = {}
    missed: list[str] = []
    for name, ways in found.items():
        shown[name] = lines = {}
        for way, runs in ways.items():
            ratios = [run["rate"] / alone["rate"] for run, alone in zip(runs, ways["alone"], strict=True)]
            lines[way] = {
                "rate": statistics.median(run["rate"] for run in runs),
                "ratio": round(statistics.median(ratios), 3),
                "failed": sum(run.get("failed", 0) + run.get("lost", 0) for run in runs),
            }
        if name.startswith("bulk") and lines["three edges"]["ratio"] < BULK_GOAL:
            missed.append(f"{name}: {lines['three edges']['ratio']} of one engine, goal {BULK_GOAL}")
        if name.endswith(("one connection", "one at a time")):
            two_us, three_us = (1e6 / lines[way]["rate"] for way in ("two edges", "three edges"))
            shown[f"{name}, added by one edge more, us"] = round(added_us := three_us - two_us, 1)
            if added_us > ADDED_GOAL_US:
                missed.append(f"one edge more adds {added_us} us")
    return {"figures": shown, "missed": missed}


if __name__ == "__main__":
    sys.exit(main())
