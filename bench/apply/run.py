"""How long until a change serves: create to the first proxied byte, and an update among 1,000 applications.

Starts `causeway up` on loopback with data of its own, writes JSON beside the other results. With --check it
fails when a goal is missed. Needs nothing but what `make setup` brings.
"""

import argparse
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests")]

from machine import facts  # noqa: E402
from support.echo import start_echo  # noqa: E402
from support.edge import ZONE, Running  # noqa: E402
from support.keeper import Keeper  # noqa: E402
from support.ports import free_port, free_ports  # noqa: E402
from support.program import Programs  # noqa: E402

CREATE_P99_MS, UPDATE_P99_MS = 100.0, 200.0  # goals
BYSTANDERS = 20


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="causeway-bench-") as folder:
        with _running(Path(folder) / "create") as (running, programs):
            created = summary(_creates(running, programs, options))
        with _running(Path(folder) / "update") as (running, programs):
            samples_ms, keeper = _updates(running, programs, options)
    updated = summary(samples_ms)
    goals = {
        f"create to first byte: p99 at most {CREATE_P99_MS:g} ms": created["p99_ms"] <= CREATE_P99_MS,
        f"update among {options.applications}: p99 at most {UPDATE_P99_MS:g} ms": updated["p99_ms"] <= UPDATE_P99_MS,
        f"no connection of {BYSTANDERS} others cut by an update": not keeper.cut,
    }
    result = {
        "format": 1,
        "machine": facts(),
        "create_to_first_byte": created,
        "update_to_new_origin": updated | {"applications": options.applications},
        "bystanders": {
            "connections": BYSTANDERS,
            "rounds": keeper.rounds,
            "longest_echo_ms": round(keeper.longest_s * 1000, 2),
            "cut": keeper.cut,
        },
        "goals": goals,
    }
    print(json.dumps(result, indent=2))
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"apply-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nresults: {path}")
    for sentence, is_met in goals.items():
        print(f"{'met' if is_met else 'MISSED'}: {sentence}")
    return 1 if options.check and not all(goals.values()) else 0


def summary(samples_ms: list[float]) -> dict[str, float]:
    ordered = sorted(samples_ms)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2)

    return {"samples": len(ordered), "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "most_ms": at(1.0)}


def _creates(running: Running, programs: Programs, options: argparse.Namespace) -> list[float]:
    """From the request for a new application to the first byte of its origin."""
    origin = start_echo(programs, greeting="a")
    samples_ms = []
    for _ in range(options.creates):
        port = free_port()
        began_s = time.perf_counter()
        running.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
        _expect(b"a", port)
        samples_ms.append((time.perf_counter() - began_s) * 1000)
    return samples_ms


def _updates(running: Running, programs: Programs, options: argparse.Namespace) -> tuple[list[float], Keeper]:
    """From the request for another origin to the first byte from there, with others echoing all the while."""
    echo, origins = start_echo(programs), [start_echo(programs, greeting=letter) for letter in "ab"]
    first = free_ports(options.applications)
    made = [
        running.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{echo}")
        for port in range(first, first + options.applications)
    ]
    changing, port = made[-1], first + options.applications - 1
    samples_ms = []
    with Keeper([("127.0.0.1", first + number) for number in range(BYSTANDERS)]) as keeper:
        for turn in range(options.updates):
            body = {
                "protocol": f"tcp/{port}",
                "dns": {"type": "CNAME", "name": f"changing.{ZONE}"},
                "origin_direct": [f"tcp://127.0.0.1:{origins[turn % 2]}"],
            }
            began_s = time.perf_counter()
            running.result("PUT", f"{running.applications}/{changing}", body)
            _expect(b"ab"[turn % 2 : turn % 2 + 1], port)
            samples_ms.append((time.perf_counter() - began_s) * 1000)
    return samples_ms, keeper


def _expect(greeting: bytes, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        found = connection.recv(1)
    if found != greeting:
        raise SystemExit(f"port {port} answered {found!r}, not {greeting!r}: the API spoke too early")


@contextmanager
def _running(data_dir: Path) -> Iterator[tuple[Running, Programs]]:
    data_dir.mkdir()
    programs = Programs(data_dir)
    running = Running(programs, data_dir / "data")
    try:
        yield running.start(), programs
    finally:
        running.close()
        programs.end()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--creates", type=int, default=200)
    parser.add_argument("--applications", type=int, default=1_000)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--results", type=Path, default=BENCH / "results", metavar="DIRECTORY")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
