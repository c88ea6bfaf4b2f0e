"""What users of edges notice while control and nats-server are gone for long, and how soon all is current again after.

Certified edges, each with new connections all the time and some that stay. Everything on this machine, on addresses of
127.0.0.0/8. Prints JSON. With --check it fails when a goal is missed.
"""

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests")]

import httpx  # noqa: E402
from machine import facts  # noqa: E402
from support.echo import ask, echoes, start_echo  # noqa: E402
from support.edge import Running  # noqa: E402
from support.outpost import Outpost  # noqa: E402
from support.patience import eventually  # noqa: E402
from support.ports import free_port  # noqa: E402
from support.program import Program, Programs  # noqa: E402

CURRENT_GOAL_S = 5.0
_EVERY_S = 0.05  # a new connection to each edge
_HELD = 10  # that stay, on each
_PROGRESS_S = 60.0


class Network:
    def __init__(self, programs: Programs, folder: Path, edges: int) -> None:
        self._programs, self._folder = programs, folder
        self.control = Running(programs, folder / "control", "--exchange", f"tls://127.0.0.1:{free_port()}").start()
        self.nats = self.start_nats()
        self.edges = [self._edge(number) for number in range(edges)]
        self.origin = start_echo(programs)
        self.port = self.application()

    def start_nats(self, *flags: str) -> Program:
        configuration = self.control.data_dir / "exchange" / "nats.conf"
        nats = self._programs.start("nats-server", "-c", configuration, "-a", "127.0.0.1", *flags)
        eventually(lambda: "Server is ready" in nats.output)
        return nats

    def _edge(self, number: int) -> Outpost:
        name = f"edge-{number}"
        join = self._folder / f"{name}.join"
        join.write_text(json.dumps(self.control.result("POST", f"/api/v1/edges/{name}/invitation")))
        return Outpost(self._programs, self._folder / name, str(join), name, f"127.0.1.{number + 1}").start()

    def application(self) -> int:
        """Served on every edge."""
        port = free_port()
        self.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{self.origin}")
        eventually(lambda: self.is_served(port), 60)
        return port

    def is_served(self, port: int) -> bool:
        return all(ask(port, edge.address) == b"hello" for edge in self.edges)

    def consumers(self) -> int:
        """Of JetStream, as nats-server itself counts them: it is started anew with a port that tells of it."""
        port = free_port()
        self.nats.end()
        self.nats = self.start_nats("-m", str(port))
        return int(httpx.get(f"http://127.0.0.1:{port}/jsz", trust_env=False).json()["consumers"])


class Users:
    """Of one edge: connections that come and go, and connections that stay."""

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port
        self.made = self.failed = 0
        self.held = [socket.create_connection((address, port), timeout=5) for _ in range(_HELD)]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(_EVERY_S):
            try:
                is_good = ask(self._port, self._address) == b"hello"
            except OSError:
                is_good = False
            self.made += 1
            self.failed += not is_good

    def end(self) -> int:
        """How many of those that stay were cut."""
        self._is_over.set()
        self._thread.join()
        cut = sum(not _lives(connection) for connection in self.held)
        for connection in self.held:
            connection.close()
        return cut


def _lives(connection: socket.socket) -> bool:
    try:
        return echoes(connection)
    except OSError:
        return False


def measured(network: Network, minutes: float, storms: int) -> dict[str, float]:
    """One edge is killed and started again in the outage; the others have users all the time."""
    *used, restarted = network.edges
    users = [Users(edge.address, network.port) for edge in used]
    network.control.kill_all()
    network.nats.end()
    began_s = time.monotonic()
    restarted.kill()
    restarted.start()
    from_disk_s = time.monotonic() - began_s
    assert ask(network.port, restarted.address) == b"hello"
    while (left_s := began_s + 60 * minutes - time.monotonic()) > 0:
        made = sum(user.made for user in users)
        say(f"{left_s:.0f} s left, {made} connections, {sum(user.failed for user in users)} failed")
        time.sleep(min(left_s, _PROGRESS_S))
    outage_s = time.monotonic() - began_s
    network.nats = network.start_nats()
    network.control.start()
    port = free_port()
    healed_s = time.monotonic()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{network.origin}")
    eventually(lambda: network.is_served(port), 60)
    current_s = time.monotonic() - healed_s
    say(f"all edges current after {current_s:.2f} s; now {storms} storms")
    slowest_s = 0.0
    for _ in range(storms):
        network.nats.end()
        network.nats = network.start_nats()
        stormed_s = time.monotonic()
        network.application()
        slowest_s = max(slowest_s, time.monotonic() - stormed_s)
    cut = sum(user.end() for user in users)
    return {
        "edges": len(network.edges),
        "outage_s": round(outage_s, 1),
        "connections": sum(user.made for user in users),
        "connections_failed": sum(user.failed for user in users),
        "held": _HELD * len(users),
        "held_cut": cut,
        "edge_serves_from_disk_s": round(from_disk_s, 2),
        "current_after_s": round(current_s, 2),
        "storms": storms,
        "current_after_a_storm_most_s": round(slowest_s, 2),
        "consumers": network.consumers(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--storms", type=int, default=50, help="restarts of nats-server, one after the other")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="causeway-bench-") as folder:
        programs = Programs(Path(folder))
        try:
            figures = measured(Network(programs, Path(folder), options.edges), options.minutes, options.storms)
        finally:
            programs.end()
    print(json.dumps({"format": 1, "machine": facts(), "figures": figures}, indent=2))
    is_kept = (
        figures["connections_failed"] == figures["held_cut"] == figures["consumers"] == 0
        and max(figures["current_after_s"], figures["current_after_a_storm_most_s"]) <= CURRENT_GOAL_S
    )
    return 1 if options.check and not is_kept else 0


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
