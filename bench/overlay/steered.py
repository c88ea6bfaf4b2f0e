"""What smart routing costs a flow that goes direct: the same application with it and without, interleaved.

One engine with a plan of routes for every steered application, on loopback addresses of this machine, one worker. Two
plain applications, before and after it and the other way round: the mean of both is what it is compared with, and how
much they differ stands beside it.
Prints JSON. With --check it fails when the goal is missed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench" / "overlay"), str(ROOT / "bench"), str(ROOT / "tests")]

from machine import facts  # noqa: E402
from run import ECHO, FRA, ORIGIN, PAR, SINK, SOURCE, answers, load_program, origin_of, run_load  # noqa: E402
from support.among_edges import Edges, edges  # noqa: E402
from support.bare_engine import application  # noqa: E402
from support.patience import eventually  # noqa: E402

MOST_SLOWER = 0.03
PLAIN, STEERED, AGAIN = "plain", "steered, direct", "plain, again"
WORKLOADS = {  # arguments of causeway-load, and the port of its origin
    "new connections": (("short", "--parallel", "16", "--close", "fin"), ECHO),
    "round trips of 64 B, 16 connections": (("rr", "--connections", "16", "--size", "64"), ECHO),
    "bulk to the origin, 4 streams": (("bulk", "--streams", "4", "--direction", "up"), SINK),
    "bulk from the origin, 4 streams": (("bulk", "--streams", "4", "--direction", "down"), SOURCE),
}
APPLICATIONS = [(kind, to) for kind in (PLAIN, STEERED, AGAIN) for to in (ECHO, SINK, SOURCE)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--check", action="store_true", help="1 where the goal is missed")
    options = parser.parse_args()
    load = load_program()
    ratios: dict[str, dict[str, list[float]]] = {name: {STEERED: [], AGAIN: []} for name in WORKLOADS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="causeway-steered-")))
        stack.enter_context(origin_of(load))
        made = stack.enter_context(edges(folder, {"par": PAR, "fra": FRA}))
        ports = _serve(made)
        for number in range(options.rounds):
            for name, (arguments, to) in WORKLOADS.items():
                kinds = (PLAIN, STEERED, AGAIN) if number % 2 else (AGAIN, STEERED, PLAIN)
                rates = {kind: run_load(load, arguments, ports[kind, to], options.seconds)["rate"] for kind in kinds}
                ratios[name][STEERED].append(2 * rates[STEERED] / (rates[PLAIN] + rates[AGAIN]))
                ratios[name][AGAIN].append(rates[AGAIN] / rates[PLAIN])
                print(f"{number + 1}/{options.rounds} {name}: {rates}", file=sys.stderr)
    shown = {
        name: {kind: round(statistics.median(found), 3) for kind, found in kinds.items()}
        for name, kinds in ratios.items()
    }
    missed = [
        f"{name}: {kinds[STEERED]} of plain, goal {1 - MOST_SLOWER}"
        for name, kinds in shown.items()
        if kinds[STEERED] < 1 - MOST_SLOWER
    ]
    print(json.dumps({"machine": facts(), "of plain": shown, "missed": missed}, indent=1))
    return 1 if options.check and missed else 0


def _serve(made: Edges) -> dict[tuple[str, int], int]:
    """The port of each kind and each port of the origin, once all answer and the plan is taken."""
    ports, served, planned = {}, [], []
    for number, (kind, to) in enumerate(APPLICATIONS):
        ports[kind, to] = port = 7201 + number
        served.append(application(number + 1, "tcp", [PAR], port, ORIGIN, to, steered=kind == STEERED))
        if kind == STEERED:
            planned.append({"id": f"{number + 1:032x}", "paths": [[], ["fra"]]})
    made.apply("par", *served)
    plan = {
        "version": 1,
        "ttl_ms": 3_600_000,
        "direct_one_in": 64,
        "legs": ["fra"],
        "reach": [one["id"] for one in planned],
    }
    made.engines["par"].call("steer", {**plan, "applications": planned})
    eventually(lambda: all(answers(ports[kind, ECHO]) for kind in (PLAIN, STEERED, AGAIN)), 10)
    return ports


if __name__ == "__main__":
    sys.exit(main())
