"""How long nothing can be changed when the leading control node dies, and what clients notice: two real nodes over
PostgreSQL, one real edge, real connections all the time.

Everything on this machine. Prints JSON. With --check it fails when a goal is missed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests")]

import httpx  # noqa: E402
from machine import facts  # noqa: E402
from support.control import ControlNode, History  # noqa: E402
from support.echo import ask, start_echo  # noqa: E402
from support.meanwhile import again_and_again  # noqa: E402
from support.nats import NatsServer  # noqa: E402
from support.outpost import Outpost  # noqa: E402
from support.patience import eventually  # noqa: E402
from support.ports import free_port  # noqa: E402
from support.postgres import PostgresServer, postgres_server  # noqa: E402
from support.program import Programs  # noqa: E402

EDGE, GOAL_S = "127.0.0.2", 8.0


class Clients:
    """One after the other, each with a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port, self.asked, self.failed = port, 0, 0

    def ask(self) -> None:
        self.asked += 1
        try:
            self.failed += ask(self._port, EDGE) != b"hello"
        except OSError:
            self.failed += 1
        time.sleep(0.005)


def created(node: ControlNode, origin: int) -> int | None:
    """The port of an application, if the node takes it now."""
    port = free_port()
    body = {
        "protocol": f"tcp/{port}",
        "dns": {"type": "CNAME", "name": f"p{port}.example.net"},
        "origin_direct": [f"tcp://127.0.0.1:{origin}"],
    }
    with suppress(httpx.HTTPError):
        return port if node.http.post(node.applications, json=body).status_code == 200 else None
    return None


def measure(rounds: int, stop: bool, programs: Programs, folder: Path, postgres: PostgresServer) -> dict[str, object]:
    nats = NatsServer(programs, folder / "nats").start()
    origin, database = start_echo(programs), postgres.database()
    nodes = [ControlNode(programs, folder / name, name, database, nats.url) for name in ("ams", "fra")]
    writes_s, serves_s = [], []
    with History(nats.url) as history:
        nodes[0].start().await_lead()
        nodes[1].start()
        Outpost(programs, folder / "e1", nats.url, "e1", EDGE).start(ready=None)
        first = created(nodes[0], origin)
        assert first
        assert nodes[1].applications
        eventually(lambda: ask(first, EDGE) == b"hello", 20)
        clients = Clients(first)
        with again_and_again(clients.ask):
            for _ in range(rounds):
                leader, other = nodes
                began_s = time.monotonic()
                leader.stop() if stop else leader.kill_all()
                port = eventually(lambda other=other: created(other, origin), 30)
                writes_s.append(time.monotonic() - began_s)
                eventually(lambda port=port: ask(port, EDGE) == b"hello", 20)
                serves_s.append(time.monotonic() - began_s)
                leader.start()
                eventually(lambda leader=leader: not leader.leads and leader.control()["leader"])
                nodes.reverse()
        history.check("e1")
        for node in nodes:
            node.close()
    return {
        "rounds": rounds,
        "writes_s": {"median": round(statistics.median(writes_s), 2), "most": round(max(writes_s), 2)},
        "serves_s": {"median": round(statistics.median(serves_s), 2), "most": round(max(serves_s), 2)},
        "connections": clients.asked,
        "connections_failed": clients.failed,
        "snapshots": len(history.puts),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--check", action="store_true")
    read = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    for name, stop in (("killed", False), ("stopped", True)):
        with tempfile.TemporaryDirectory() as folder:
            programs = Programs(Path(folder))
            try:
                with postgres_server(programs) as postgres:
                    found[name] = measure(read.rounds, stop, programs, Path(folder), postgres)
            finally:
                programs.end()
    print(json.dumps({"machine": facts(), "goal_s": GOAL_S, **found}, indent=2))
    is_good = all(one["connections_failed"] == 0 and one["writes_s"]["most"] <= GOAL_S for one in found.values())  # type: ignore[index]
    return 0 if is_good or not read.check else 1


if __name__ == "__main__":
    sys.exit(main())
