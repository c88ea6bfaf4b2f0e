"""How soon edges on other machines serve a change: real edges, then many that only follow, over one nats-server.

Everything on this machine, on addresses of 127.0.0.0/8. Prints JSON. With --check it fails when a goal is missed.
"""

import argparse
import asyncio
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests")]

import msgspec  # noqa: E402
from machine import facts  # noqa: E402
from support.edge import Running  # noqa: E402
from support.nats import NatsServer  # noqa: E402
from support.outpost import Outpost  # noqa: E402
from support.patience import eventually  # noqa: E402
from support.ports import free_port  # noqa: E402
from support.program import Programs  # noqa: E402

from causeway.exchange import words  # noqa: E402
from causeway.exchange.bus import EdgeRefused  # noqa: E402
from causeway.exchange.link import Where  # noqa: E402
from causeway.exchange.nats_edge import NatsEdge  # noqa: E402
from causeway.model.report import ApplyReport, BlobReport, Explanation, Report, RuleHits, decode_report  # noqa: E402

REAL_GOAL_S, JOIN_GOAL_S, FOLLOWING_GOAL_S, CONTROL_GOAL_MB = 1.0, 5.0, 2.0, 500


class Versioned(msgspec.Struct):
    """What a follower reads of a snapshot."""

    version: int


class Follower:
    """An edge without an engine: it takes real snapshots and sends real reports, once a second."""

    def __init__(self, where: Where, name: str, report: bytes) -> None:
        self._report, self.version, self.taken_s = report, 0, 0.0
        self.side = NatsEdge(where, name, words.Site(["192.0.2.1"]))

    def apply(self, snapshot: bytes) -> ApplyReport:
        self.version = msgspec.json.decode(snapshot, type=Versioned).version  # all of it would take us longer than them
        self.taken_s = time.monotonic()
        return ApplyReport(self.version, "applied", [])

    def observe(self) -> Report:
        told = json.loads(self._report) | {"version": self.version}
        report = decode_report(json.dumps(told).encode())
        self.side.publish(report)
        return report

    def wake(self) -> None: ...

    def put_blob(self, kind: str, content: bytes, *, overlaps: bool, private: bool) -> BlobReport:
        raise EdgeRefused("no_engine", "this edge only follows")

    def has_blob(self, digest: str) -> bool:
        return False

    def rule_hits(self) -> list[RuleHits]:
        return []

    def identify(self, identity: bytes) -> None:
        """There are no others."""

    def explain(self, application: str, client: str, port: int) -> Explanation | None:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=20)
    parser.add_argument("--followers", type=int, default=150)
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--applications", type=int, default=200, help="that every snapshot has from the beginning")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="causeway-bench-") as folder:
        programs = Programs(Path(folder))
        try:
            figures = measured(programs, Path(folder), options)
        finally:
            programs.end()
    print(json.dumps({"format": 1, "machine": facts(), "figures": figures}, indent=2))
    is_kept = (
        figures["served_everywhere_p99_s"] <= REAL_GOAL_S
        and figures["joined_s"] <= JOIN_GOAL_S
        and figures["followed_everywhere_p99_s"] <= FOLLOWING_GOAL_S
        and figures["control_mb"] <= CONTROL_GOAL_MB
        and figures["consumers"] == 0
    )
    return 1 if options.check and not is_kept else 0


def measured(programs: Programs, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    edges, followers, changes = options.edges, options.followers, options.changes
    nats = NatsServer(programs, folder / "nats").start()
    control = Running(programs, folder / "control", "--exchange", nats.url, "--workers", "1").start()

    for _ in range(options.applications):
        control.create_application(f"tcp/{free_port()}", "tcp://127.0.0.1:9")

    def outpost(number: int) -> Outpost:
        return Outpost(programs, folder / f"edge-{number}", nats.url, f"edge-{number}", f"127.0.1.{number + 1}")

    real = [outpost(number).start() for number in range(edges)]
    say(f"{edges} edges are up")
    took_s = list(rounds(control, [edge.address for edge in real], changes))
    port = free_port()
    control.create_application(f"tcp/{port}", "tcp://127.0.0.1:9")
    began_s = time.monotonic()
    late = outpost(edges).start()
    eventually(lambda: is_open(late.address, port))
    joined_s = time.monotonic() - began_s
    for edge in [*real, late]:
        edge.stop()
    say("they are gone; followers come")
    followed_s = following(control, Where(nats.url), followers, changes)
    figures = {
        "applications": options.applications,
        "edges": edges,
        "served_everywhere_p50_s": statistics.median(took_s),
        "served_everywhere_p99_s": at(took_s, 0.99),
        "joined_s": joined_s,
        "followers": followers,
        "followed_everywhere_p50_s": statistics.median(followed_s),
        "followed_everywhere_p99_s": at(followed_s, 0.99),
        "control_mb": control.rss_bytes / 2**20,
        "consumers": asyncio.run(consumers(nats.url)),
    }
    control.close()
    control.stop()
    return {name: round(value, 4) for name, value in figures.items()}


def rounds(control: Running, addresses: list[str], changes: int) -> Iterator[float]:
    """From the answer of the API until the last edge serves."""
    for _ in range(changes):
        port = free_port()
        control.create_application(f"tcp/{port}", "tcp://127.0.0.1:9")
        began_s, left = time.monotonic(), list(addresses)
        while left:
            left = [address for address in left if not is_open(address, port)]
        yield time.monotonic() - began_s


def following(control: Running, where: Where, count: int, changes: int) -> list[float]:
    report = json.dumps(empty_report()).encode()
    all_of_them = [Follower(where, f"follower-{number}", report) for number in range(count)]
    is_over = threading.Event()

    def observe() -> None:
        while not is_over.wait(1 / count):
            all_of_them[int(time.monotonic() * count) % count].observe()

    for follower in all_of_them:
        follower.side.attach(follower)
    reporting = threading.Thread(target=observe, daemon=True)
    reporting.start()
    try:
        eventually(lambda: all(follower.version for follower in all_of_them), 120)
        say(f"{count} followers have a snapshot")
        took_s = []
        for _ in range(changes):
            control.create_application(f"tcp/{free_port()}", "tcp://127.0.0.1:9")
            began_s = time.monotonic()
            version = control.status()["edges"][0]["version"]
            eventually(lambda: all(follower.version >= version for follower in all_of_them), 60)  # noqa: B023
            took_s.append(max(follower.taken_s for follower in all_of_them) - began_s)
        return took_s
    finally:
        is_over.set()
        reporting.join()
        for follower in all_of_them:
            follower.side.stop()


def empty_report() -> dict[str, object]:
    return {
        "version": 0, "is_draining": False, "uptime_ms": 1, "workers": 1, "open_files": {"used": 1, "limit": 2},
        "totals": {}, "applications": [], "refused": [], "events": [], "events_lost": 0, "rejected_snapshots": [],
    }  # fmt: skip


async def consumers(url: str) -> int:
    import nats

    client = await nats.connect(url)
    try:
        return (await client.jetstream().stream_info(f"KV_{words.SNAPSHOTS}")).state.consumer_count
    finally:
        await client.close()


def at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
