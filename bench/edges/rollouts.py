"""How soon a change is on the first edge, on all of them in stages, on all at once, and back where it does harm.

Real edges over one nats-server, everything on this machine, on addresses of 127.0.0.0/8. Prints JSON. With --check it
fails when a goal is missed.
"""

import argparse
import contextlib
import json
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests")]

from machine import facts  # noqa: E402
from support.echo import start_echo  # noqa: E402
from support.edge import Running  # noqa: E402
from support.nats import NatsServer  # noqa: E402
from support.outpost import Outpost  # noqa: E402
from support.patience import eventually  # noqa: E402
from support.ports import free_port  # noqa: E402
from support.program import Programs  # noqa: E402

FIRST_GOAL_S, ALL_GOAL_S, NOW_GOAL_S, BACK_GOAL_S = 2.0, 60.0, 10.0, 30.0
_LOOK_S = 0.02
_REPORTED_S = 3.0  # by then edges have said what they serve


class Network:
    def __init__(self, programs: Programs, folder: Path, edges: int) -> None:
        nats = NatsServer(programs, folder / "nats").start()
        self.control = Running(programs, folder / "control", "--exchange", nats.url, "--workers", "1").start()
        self.addresses = [f"127.0.1.{number + 1}" for number in range(edges)]
        for number, address in enumerate(self.addresses):
            name = f"edge-{number:02}"
            Outpost(programs, folder / name, nats.url, name, address).start()
        self.port = free_port()
        self.application = self.control.create_application(
            f"tcp/{self.port}", f"tcp://127.0.0.1:{start_echo(programs)}"
        )
        self.until_served(self.addresses, self.port)

    def move(self, query: str = "") -> tuple[int, float]:
        """To another port; answers it, and when that was asked."""
        self.port, asked_s = free_port(), time.monotonic()
        path = f"{self.control.applications}/{self.application}{query}"
        self.control.result("PATCH", path, {"protocol": f"tcp/{self.port}"})
        return self.port, asked_s

    def until_served(self, addresses: list[str], port: int) -> None:
        eventually(lambda: all(is_open(address, port) for address in addresses), 120, every_s=_LOOK_S)

    def newest(self) -> tuple[int, str]:
        """Number and state of the newest rollout."""
        found = self.control.result("GET", "/api/v1/rollouts")
        return (found[0]["number"], found[0]["state"]) if found else (0, "none")

    def until(self, state: str, after: int) -> int:
        """Answers the number of a rollout that came after that one, once it is in that state."""

        def number() -> int:
            newest = self.newest()
            assert newest[1] in ("open", state) or newest[0] <= after, newest
            return newest[0] if newest[0] > after and newest[1] == state else 0

        return eventually(number, 120, every_s=_LOOK_S)


def is_open(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=2):
        return True
    return False


def measured(network: Network, rounds: int) -> dict[str, float]:
    first_s, all_s, now_s, back_s = [], [], [], []
    for number in range(rounds):
        last = network.newest()[0]
        port, asked_s = network.move()
        network.until_served(network.addresses[:1], port)
        first_s.append(time.monotonic() - asked_s)
        network.until_served(network.addresses, port)
        all_s.append(time.monotonic() - asked_s)
        network.until("done", last)
        say(f"{number + 1} of {rounds} in stages: {first_s[-1]:.2f} s, {all_s[-1]:.1f} s")
    for _ in range(rounds):
        port, asked_s = network.move("?now=true")
        network.until_served(network.addresses, port)
        now_s.append(time.monotonic() - asked_s)
    time.sleep(_REPORTED_S)
    before = contents(network)
    for number in range(rounds):
        served, last = network.port, network.newest()[0]
        network.port = free_port()
        with socket.create_server((network.addresses[0], network.port)):  # another program has it there
            path = f"{network.control.applications}/{network.application}"
            asked_s = time.monotonic()
            network.control.result("PATCH", path, {"protocol": f"tcp/{network.port}"})
            halted = network.until("halted", last)
            eventually(lambda: contents(network) == before, 60, every_s=_LOOK_S)
            back_s.append(time.monotonic() - asked_s)
        assert not any(is_open(address, network.port) for address in network.addresses)
        network.until_served(network.addresses, served)
        network.control.result("POST", f"/api/v1/rollouts/{halted}/rollback")
        network.port = served
        say(f"{number + 1} of {rounds} back: {back_s[-1]:.2f} s")
    return {
        "edges": len(network.addresses),
        "rounds": rounds,
        "first_edge_median_s": round(statistics.median(first_s), 2),
        "first_edge_most_s": round(max(first_s), 2),
        "all_in_stages_most_s": round(max(all_s), 1),
        "all_at_once_median_s": round(statistics.median(now_s), 2),
        "all_at_once_most_s": round(max(now_s), 2),
        "back_median_s": round(statistics.median(back_s), 2),
        "back_most_s": round(max(back_s), 2),
    }


def contents(network: Network) -> dict[str, str]:
    """Of each edge: the digest of what it serves."""
    return {edge["name"]: edge["content"] for edge in network.control.status()["edges"] if "remote" in edge}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="causeway-bench-") as folder:
        programs = Programs(Path(folder))
        try:
            figures = measured(Network(programs, Path(folder), options.edges), options.rounds)
        finally:
            programs.end()
    print(json.dumps({"format": 1, "machine": facts(), "figures": figures}, indent=2))
    is_kept = (
        figures["first_edge_most_s"] <= FIRST_GOAL_S
        and figures["all_in_stages_most_s"] <= ALL_GOAL_S
        and figures["all_at_once_most_s"] <= NOW_GOAL_S
        and figures["back_most_s"] <= BACK_GOAL_S
    )
    return 1 if options.check and not is_kept else 0


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
