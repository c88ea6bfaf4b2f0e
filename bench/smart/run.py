"""What smart routing is worth in a network of eight PoPs, and what its flows notice when a line on their way fails.

Real edges, control and nats-server, each PoP in a network namespace of its own, over the emulated WAN of a lab
(`world.toml`): so all of it runs on this machine, and times below the delays of lines are its own. Each origin has
an application that goes direct, one with argo_smart_routing, and one on the best way, said by hand: the three are
measured in turns. Prints JSON. With --check it fails when a goal is missed.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests")]

from machine import facts  # noqa: E402
from support.patience import eventually  # noqa: E402

from causeway.lab import Lab  # noqa: E402

MOVES_GOAL_S, REACHED_GOAL, SLOWER_GOAL = 10.0, 0.9, 1.05
P99_GOAL_MS, BACK_GOAL_S = 1_000, 60.0
ORIGINS = ("tokyo", "frankfurt")
MEGABYTE = 1_000_000
PATIENCE_S = 20.0
EVERY_S, BEFORE_S, AFTER_S = 0.1, 2.0, 8.0  # flows of a fault: one each, so long before it and after it
LONG_FLOWS, LONG_BYTES, LONG_BEFORE_S = 10, 1_000_000, 0.4  # under way when it comes
BACK_S = 150.0
_LOOK_S = 0.2


@dataclass(frozen=True)
class Pair:
    """`relay`: of the best way over another PoP, none where direct is better."""

    pop: str
    origin: str
    direct_ms: float
    relay: str | None
    best_ms: float


@dataclass
class Times:
    first_ms: list[float] = field(default_factory=list)
    megabyte_ms: list[float] = field(default_factory=list)


class Network:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.control = lab.world.network.control
        self.pops = [node.name for node in lab.world.nodes if node.kind == "pop"]
        self.pairs = [self._pair(pop, origin) for origin in ORIGINS for pop in self.pops]
        self.ports: dict[tuple[str, str], int] = {}
        self.command("zones", "create", "example.net")
        for origin in ORIGINS:
            self._create(origin, "direct")
            self._create(origin, "smart")
            for relay in sorted({pair.relay for pair in self.pairs if pair.origin == origin and pair.relay}):
                self._create(origin, relay, "--path", self.edge(relay))
        for pop in self.pops:
            for port in self.ports.values():
                eventually(lambda pop=pop, port=port: self.is_served(pop, port), 60)

    def edge(self, pop: str) -> str:
        return "local" if pop == self.control else pop

    def command(self, *words: str) -> str:
        done = self.lab.run(self.control, "causeway", *words)
        if done.returncode:
            raise RuntimeError(f"causeway {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def routes(self) -> dict[tuple[str, str], list[str]]:
        """The path in use, by edge and name of the application."""
        return {(one["edge"], one["name"]): one["path"] for one in json.loads(self.command("routes", "-o", "json"))}

    def rtt_ms(self, one: str, other: str) -> float:
        link = next(link for link in self.lab.world.links if set(link.between) == {one, other})
        return link.there.delay_ms + link.back.delay_ms

    def is_served(self, pop: str, port: int) -> bool:
        with contextlib.suppress(OSError), self.connected(pop, port):
            return True
        return False

    @contextlib.contextmanager
    def connected(self, pop: str, port: int) -> Iterator[socket.socket]:
        with (
            self.lab.inside(pop),
            socket.create_connection((self.lab.world.node(pop).address, port), timeout=PATIENCE_S) as connection,
        ):
            yield connection

    def ask(self, pop: str, port: int, count: int) -> tuple[float, float]:
        """From a client beside a PoP: milliseconds until the first and the last byte of the answer are there."""
        began = time.monotonic()
        with self.connected(pop, port) as connection:
            connection.sendall(count.to_bytes(8))
            got = len(connection.recv(1))
            first = time.monotonic() - began
            while got < count and (more := len(connection.recv(1 << 16))):
                got += more
            if got < count:
                raise OSError(f"the answer ended after {got} bytes of {count}")
            return first * 1000, (time.monotonic() - began) * 1000

    def _create(self, origin: str, kind: str, *flags: str) -> None:
        port = self.ports[origin, kind] = 7000 + len(self.ports)
        address = self.lab.world.node(origin).address
        names = ("--dns", f"{origin}-{kind}.example.net", "--protocol", f"tcp/{port}", "--origin", f"{address}:7")
        self.command("apps", "create", *names, *flags)

    def _pair(self, pop: str, origin: str) -> Pair:
        direct_ms = self.rtt_ms(pop, origin)
        ways = {other: self.rtt_ms(pop, other) + self.rtt_ms(other, origin) for other in self.pops if other != pop}
        relay = min(ways, key=ways.__getitem__)
        if ways[relay] < direct_ms - 5:
            return Pair(pop, origin, direct_ms, relay, ways[relay])
        return Pair(pop, origin, direct_ms, None, direct_ms)


def switch_on(network: Network) -> dict[str, Any]:
    """Answers how long it takes, with a flow a second and pair, until each pair with a better way is on one."""
    gaining = {(network.edge(pair.pop), f"{pair.origin}-smart.example.net") for pair in network.pairs if pair.relay}
    is_over = threading.Event()

    def flows(pop: str) -> None:
        while not is_over.wait(1.0):
            for origin in ORIGINS:
                with contextlib.suppress(OSError):
                    network.ask(pop, network.ports[origin, "smart"], 1)

    with ThreadPoolExecutor(len(network.pops)) as pool:
        going = [pool.submit(flows, pop) for pop in network.pops]
        try:
            time.sleep(3)
            began = time.monotonic()
            for origin in ORIGINS:
                network.command("apps", "update", f"{origin}-smart.example.net", "--smart-routing")
            toggled_s = time.monotonic() - began
            moved: dict[tuple[str, str], float] = {}

            def are_moved() -> bool:
                for key, path in network.routes().items():
                    if path and key in gaining:
                        moved.setdefault(key, time.monotonic() - began)
                return moved.keys() == gaining

            eventually(are_moved, 60, every_s=_LOOK_S)
            time.sleep(5)  # connections get ready
        finally:
            is_over.set()
    for one in going:
        one.result()
    return {
        "pairs_with_a_better_way": len(gaining),
        "toggled_s": round(toggled_s, 2),
        "moved_median_s": round(statistics.median(moved.values()), 2),
        "moved_most_s": round(max(moved.values()), 2),
    }


def compare(network: Network, rounds: int, megabytes: int) -> list[dict[str, Any]]:
    """All pairs, each kind of application in turns."""

    def of_pop(pop: str) -> list[dict[str, Any]]:
        found, chance = [], random.Random(pop)
        for pair in (pair for pair in network.pairs if pair.pop == pop):
            kinds = {"direct": "direct", "smart": "smart"} | ({"by_hand": pair.relay} if pair.relay else {})
            times, order = {kind: Times() for kind in kinds}, list(kinds)
            for number in range(max(rounds, megabytes)):
                chance.shuffle(order)  # what comes after a flow on the same way finds one connection less
                for kind in order:
                    port = network.ports[pair.origin, kinds[kind]]
                    if number < rounds:
                        times[kind].first_ms.append(network.ask(pop, port, 1)[0])
                    if number < megabytes:
                        times[kind].megabyte_ms.append(network.ask(pop, port, MEGABYTE)[1])
            found.append(_row(pair, times))
        return found

    with ThreadPoolExecutor(len(network.pops)) as pool:
        rows = [row for found in pool.map(of_pop, network.pops) for row in found]
    return sorted(rows, key=lambda row: (row["origin"], -row["direct_ms"]))


def _row(pair: Pair, times: dict[str, Times]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "from": pair.pop,
        "origin": pair.origin,
        "direct_ms": round(pair.direct_ms, 1),
        "best_over": pair.relay,
        "best_ms": round(pair.best_ms, 1),
    }
    for what in ("first_ms", "megabyte_ms"):
        for share, name in ((0.5, "p50"), (0.95, "p95")):
            found = {kind: quantile(getattr(one, what), share) for kind, one in times.items()}
            shown: dict[str, float] = {kind: round(ms, 1) for kind, ms in found.items()}
            if pair.relay:
                shown["reached"] = round((found["direct"] - found["smart"]) / (found["direct"] - found["by_hand"]), 3)
            else:
                shown["to_direct"] = round(found["smart"] / found["direct"], 3)
            row[f"{what}_{name}"] = shown
    return row


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))]


@dataclass(frozen=True)
class Fault:
    """`begin` and `end` of something that happens to the way of one pair."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]
    is_healed: bool = True


def faults(network: Network, pair: Pair) -> list[Fault]:
    lab, pop, relay, origin = network.lab, pair.pop, pair.relay, pair.origin
    assert relay
    usual_ms, exit_ms = network.rtt_ms(pop, relay), network.rtt_ms(relay, origin)

    def link(name: str, a: str, b: str, rtt_ms: float, one_way: bool = False, **values: Any) -> Fault:
        def back() -> object:
            return lab.link(a, b, rtt_ms=rtt_ms, **dict.fromkeys(values, 0))

        if one_way:
            return Fault(name, lambda: lab.link(a, b, one_way=True, **values), back)
        return Fault(name, lambda: lab.link(a, b, **values), back)

    return [
        Fault("cut to the relay", lambda: lab.fail(pop, relay), lambda: lab.heal(pop, relay)),
        Fault(
            "cut to the relay, one way",
            lambda: lab.fail(pop, relay, one_way=True),
            lambda: lab.heal(pop, relay, one_way=True),
        ),
        Fault(
            "cut from the relay, one way",
            lambda: lab.fail(relay, pop, one_way=True),
            lambda: lab.heal(relay, pop, one_way=True),
        ),
        Fault("cut behind the relay", lambda: lab.fail(relay, origin), lambda: lab.heal(relay, origin)),
        link("5 % loss to the relay", pop, relay, usual_ms, loss=0.05),
        link("20 % loss to the relay", pop, relay, usual_ms, loss=0.2),
        Fault(
            "100 ms more to the relay",
            lambda: lab.link(pop, relay, rtt_ms=usual_ms + 100),
            lambda: lab.link(pop, relay, rtt_ms=usual_ms),
        ),
        Fault(
            "200 ms more behind the relay",
            lambda: lab.link(relay, origin, rtt_ms=exit_ms + 200),
            lambda: lab.link(relay, origin, rtt_ms=exit_ms),
        ),
        Fault("kill -9 of all in the relay", lambda: kill(lab, relay), lambda: None, is_healed=False),
    ]


def kill(lab: Lab, node: str) -> None:
    listed = subprocess.run(
        ["ip", "netns", "pids", lab.namespace(node)], capture_output=True, text=True, check=True
    ).stdout
    for pid in map(int, listed.split()):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def during(network: Network, pair: Pair, fault: Fault) -> dict[str, Any]:
    """Flows that begin every tenth of a second, before and after it, and some that are under way when it comes."""
    port, key = network.ports[pair.origin, "smart"], (network.edge(pair.pop), f"{pair.origin}-smart.example.net")
    until_back(network, pair)
    flows: list[tuple[float, float | None]] = []  # when it began after the fault, milliseconds until the first byte

    def one(at_s: float) -> None:
        try:
            flows.append((at_s, network.ask(pair.pop, port, 1)[0]))
        except OSError:
            flows.append((at_s, None))

    def long(_: int) -> bool:
        try:
            network.ask(pair.pop, port, LONG_BYTES)
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(256) as pool:
        began, is_on = time.monotonic(), False
        under_way = list[Future[bool]]()
        for number in range(int((BEFORE_S + AFTER_S) / EVERY_S)):
            due_s = number * EVERY_S
            time.sleep(max(0.0, began + due_s - time.monotonic()))
            if due_s >= BEFORE_S - LONG_BEFORE_S and not under_way:
                under_way = [pool.submit(long, each) for each in range(LONG_FLOWS)]
            if due_s >= BEFORE_S and not is_on:
                is_on = bool(fault.begin()) or True
            pool.submit(one, due_s - BEFORE_S)
    path = network.routes().get(key)
    fault.end()
    before = [ms for at_s, ms in flows if at_s < -0.5 and ms is not None]
    after = sorted((at_s, ms) for at_s, ms in flows if at_s >= 0)
    usual_ms = statistics.median(before)
    late = [at_s for at_s, ms in after if ms is None or ms > 2 * pair.direct_ms + 50]
    served = [ms for _, ms in after if ms is not None]
    slowest = sorted(((at_s, ms) for at_s, ms in after if ms is not None), key=lambda one: -one[1])
    return {
        "fault": fault.name,
        "before_p50_ms": round(usual_ms, 1),
        "flows_after": len(after),
        "failed": sum(ms is None for _, ms in after),
        "long_flows": LONG_FLOWS,
        "long_flows_broken": sum(not one.result() for one in under_way),
        "p50_ms": round(quantile(served, 0.5), 1),
        "p99_ms": round(quantile(served, 0.99), 1),
        "slowest": [(round(at_s, 1), round(ms)) for at_s, ms in slowest[:6]],
        "slower_than_direct_until_s": round(max(late) + EVERY_S, 1) if late else 0.0,
        "path_at_the_end": path,
        "is_healed": fault.is_healed,
        "back_after_s": until_back(network, pair) if fault.is_healed else None,
    }


def until_back(network: Network, pair: Pair) -> float | None:
    """Seconds until its flows take the best way again, with a flow a second going on; None: it took too long."""
    key, port = (network.edge(pair.pop), f"{pair.origin}-smart.example.net"), network.ports[pair.origin, "smart"]
    began = time.monotonic()
    while network.routes().get(key) != [network.edge(pair.relay)]:
        if time.monotonic() - began > BACK_S:
            return None
        with contextlib.suppress(OSError):
            network.ask(pair.pop, port, 1)
        time.sleep(0.5)
    return round(time.monotonic() - began, 1)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    figures = [f"{what}_{name}" for what in ("first_ms", "megabyte_ms") for name in ("p50", "p95")]
    return {
        name: {
            "reached_least": min(row[name]["reached"] for row in rows if row["best_over"]),
            "reached_median": statistics.median(row[name]["reached"] for row in rows if row["best_over"]),
            "to_direct_most": max(row[name]["to_direct"] for row in rows if not row["best_over"]),
        }
        for name in figures
    }


def missed(moves: dict[str, Any], figures: dict[str, Any], harmed: list[dict[str, Any]]) -> list[str]:
    """Goals, in words."""
    found = []
    if moves["moved_most_s"] > MOVES_GOAL_S:
        found.append(f"moved after {moves['moved_most_s']} s, goal {MOVES_GOAL_S:.0f}")
    for name, one in figures.items():
        if one["reached_least"] < REACHED_GOAL:
            found.append(f"{name}: {one['reached_least']} of what is possible, goal {REACHED_GOAL}")
        if one["to_direct_most"] > SLOWER_GOAL:
            found.append(f"{name}: {one['to_direct_most']} of direct, goal {SLOWER_GOAL}")
    for one in harmed:
        if one["failed"]:
            found.append(f"{one['fault']}: {one['failed']} of {one['flows_after']} flows failed, goal 0")
        if one["long_flows_broken"] and one["is_healed"]:
            found.append(f"{one['fault']}: {one['long_flows_broken']} of {one['long_flows']} flows broken, goal 0")
        if one["p99_ms"] > P99_GOAL_MS:
            found.append(f"{one['fault']}: first byte after {one['p99_ms']} ms at p99, goal {P99_GOAL_MS}")
        if one["is_healed"] and (one["back_after_s"] is None or one["back_after_s"] > BACK_GOAL_S):
            found.append(f"{one['fault']}: back after {one['back_after_s']} s, goal {BACK_GOAL_S:.0f}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="first bytes of each pair and kind")
    parser.add_argument("--megabytes", type=int, default=24, help="transfers of each pair and kind")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--faults", metavar="TEXT", default="", help="only those that have this in their name")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    text = (HERE / "world.toml").read_text().replace("{python}", sys.executable).replace("{bench}", str(HERE))
    with tempfile.TemporaryDirectory(prefix="causeway-bench-") as folder, Lab.up(text, Path(folder) / "lab") as lab:
        say("the network is up")
        network = Network(lab)
        moves = switch_on(network)
        say(f"moved: {moves}")
        rows = compare(network, options.rounds, options.megabytes)
        say(f"compared: {summary(rows)}")
        harmed = []
        if not options.no_faults:
            others = [pair for pair in network.pairs if pair.relay not in (None, network.control)]
            pair = max(others, key=lambda it: it.direct_ms - it.best_ms)
            say(f"faults on the way from {pair.pop} to {pair.origin}, best over {pair.relay}")
            for fault in (fault for fault in faults(network, pair) if options.faults in fault.name):
                harmed.append(during(network, pair, fault))
                say(f"{harmed[-1]}")
    figures = summary(rows)
    told = {"moves": moves, "summary": figures, "pairs": rows, "faults": harmed}
    told["missed"] = missed(moves, figures, harmed)
    print(json.dumps({"format": 1, "machine": facts(), **told}, indent=1))
    return 1 if options.check and told["missed"] else 0


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
