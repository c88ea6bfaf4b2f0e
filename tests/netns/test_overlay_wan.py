"""Flows from edge to edge over an emulated WAN: what a start costs, which way is faster, what loss does to bytes."""

import os
import random
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.among_edges import Edges, Node, edges
from support.bare_engine import application
from support.patience import eventually
from support.program import need

from causeway.lab import Lab

pytestmark = pytest.mark.alone

FAR_MS, NEAR_MS = 60, 15
OVERHEAD_MS = 12  # of processes on a machine that may be busy; what an edge costs by itself is in bench/overlay
STREAMS = int(os.environ.get("CAUSEWAY_TEST_STREAMS", "60"))  # 10,000 for the full proof
AT_ONCE = 60  # of them

WORLD = """
[nodes.par]
kind = "client"
[nodes.ams]
kind = "client"
[nodes.fra]
kind = "origin"
programs = ["{python} -m causeway.lab.echo 7"]
[[links]]
between = ["par", "fra"]
rtt_ms = {far}
[[links]]
between = ["par", "ams"]
rtt_ms = {near}
[[links]]
between = ["ams", "fra"]
rtt_ms = {near}
"""

WAYS = {
    7001: ("direct", []),
    7002: ("over fra", [["fra"]]),
    7003: ("over ams and fra", [["ams", "fra"]]),
    7004: ("over fra, or ams and fra", [["fra"], ["ams", "fra"]]),
}


class World:
    def __init__(self, lab: Lab, made: Edges) -> None:
        self.lab, self.edges = lab, made
        self.par, self.ams, self.fra = (Node(lab, name) for name in ("par", "ams", "fra"))

    def serve(self) -> None:
        both = [(protocol, port) for protocol in ("tcp", "udp") for port in WAYS]

        def app(number: int, edge: str, **more: object) -> object:
            protocol, port = both[number]
            return application(number + 1, protocol, [edge], port, self.fra.address, 7, **more)

        ways = [(number, WAYS[port][1]) for number, (_, port) in enumerate(both)]
        exits = [app(number, self.fra.address, exit=True) for number, paths in ways if paths]
        self.edges.apply("fra", *exits)
        self.edges.apply("par", *(app(number, self.par.address, paths=paths) for number, paths in ways))

    def first_byte_ms(self, port: int) -> float:
        """From a client beside the first edge: connect, one byte there and back."""
        with self.lab.inside("par"), socket.create_connection((self.par.address, port), timeout=10) as connection:
            began = time.monotonic()
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
            return (time.monotonic() - began) * 1000

    def first_datagram_ms(self, port: int, within_s: float = 10) -> float:
        """From a client beside the first edge that no edge knows yet: one datagram there and back."""
        with self.lab.inside("par"), self.client(port) as client:
            client.settimeout(within_s)
            began = time.monotonic()
            client.send(b"x")
            assert client.recv(1500) == b"x"
            return (time.monotonic() - began) * 1000

    def client(self, port: int) -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect((self.par.address, port))
        return client

    def is_ready(self, port: int) -> bool:
        return self.first_byte_ms(port) > 0 and self.first_datagram_ms(port, within_s=1) > 0

    def waited(self) -> int:
        return int(self.edges.overlay("par")["flows_waited_total"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need("ip", "nsenter")
    if os.geteuid() or not Path("/dev/net/tun").exists():
        pytest.skip("a lab needs root and /dev/net/tun")
    folder = tmp_path_factory.mktemp("overlay")
    text = WORLD.format(python=sys.executable, far=FAR_MS, near=NEAR_MS)
    with Lab.up(text, folder / "lab", f"overlay-{os.getpid()}") as lab:
        nodes = {name: Node(lab, name) for name in ("par", "ams", "fra")}
        with edges(folder, {name: node.address for name, node in nodes.items()}, dict(nodes)) as made:
            found = World(lab, made)
            found.serve()
            for port in WAYS:
                eventually(lambda port=port: found.is_ready(port), 20)
            yield found


@pytest.mark.parametrize(
    ("port", "round_trips_ms"),
    [
        (7001, 2 * FAR_MS),  # connect, then ask
        (7002, FAR_MS),  # the connection was there
        (7003, 2 * NEAR_MS),  # and the way round is shorter
    ],
)
def test_a_flow_over_edges_starts_without_a_round_trip_more(world: World, port: int, round_trips_ms: float) -> None:
    took_ms = []
    for _ in range(7):
        before = world.waited()
        ms = world.first_byte_ms(port)
        if world.waited() == before:  # it found a connection that was ready, which is what this is about
            took_ms.append(ms)
        time.sleep(0.15)  # others are made ready behind it
    assert len(took_ms) >= 3
    assert round_trips_ms <= statistics.median(took_ms) + 1 <= round_trips_ms + OVERHEAD_MS, took_ms


@pytest.mark.parametrize(("port", "round_trips_ms"), [(7001, FAR_MS), (7002, FAR_MS), (7003, 2 * NEAR_MS)])
def test_a_session_over_edges_costs_what_its_way_costs_from_the_first_datagram_on(
    world: World, port: int, round_trips_ms: float
) -> None:
    took_ms = [world.first_datagram_ms(port) for _ in range(7)]
    assert round_trips_ms <= statistics.median(took_ms) + 1 <= round_trips_ms + OVERHEAD_MS, took_ms


def test_an_edge_that_is_cut_off_without_a_word_is_gone_round_in_two_seconds(world: World) -> None:
    with world.par, socket.create_connection((world.par.address, 7004), timeout=10) as held:
        held.sendall(b"x")
        assert held.recv(1) == b"x"
        world.lab.fail("par", "fra")
        began = time.monotonic()

        def goes_round() -> bool:
            return world.first_byte_ms(7004) < FAR_MS

        eventually(goes_round, 5, every_s=0.01)
        took_s = time.monotonic() - began
        print(f"gone round after {took_s:.2f} s")
        assert took_s < 3.0, "the first one meets the cut, and goes on round it"
        held.settimeout(10)
        held.sendall(b"y")
        assert held.recv(1) == b"y", "what was there goes on, too, while the line is still cut"
        world.lab.heal("par", "fra")


@pytest.mark.parametrize("is_upload", [False, True])
def test_a_flow_that_is_under_way_goes_on_byte_for_byte_when_its_line_is_cut(world: World, is_upload: bool) -> None:
    sent = random.Random(1).randbytes(4_000_000)
    resumed = int(world.edges.overlay("par")["flows_resumed_total"])
    eventually(lambda: world.first_byte_ms(7004) > FAR_MS - 1, 15, every_s=0.2)  # straight to fra
    with world.par, socket.create_connection((world.par.address, 7004), timeout=20) as connection:
        writer = threading.Thread(target=_send, args=(connection, sent if is_upload else sent[:2_000_000]))
        writer.start()
        heard = bytearray()
        began, longest_s = time.monotonic(), 0.0
        while len(heard) < (len(sent) if is_upload else 2_000_000):
            part = connection.recv(65_536)
            assert part, "it has ended"
            if not heard:
                world.lab.fail("par", "fra")
            longest_s = max(longest_s, time.monotonic() - began)
            began = time.monotonic()
            heard += part
        writer.join()
    world.lab.heal("par", "fra")
    assert sent.startswith(bytes(heard))
    print(f"nothing came for {longest_s:.2f} s")
    assert longest_s < 6
    assert int(world.edges.overlay("par")["flows_resumed_total"]) > resumed


def test_loss_and_cuts_leave_every_byte_right_or_end_the_flow(world: World) -> None:
    for between in (("par", "ams"), ("ams", "fra")):
        world.lab.link(*between, loss=0.01)
    results: list[str] = []

    def stream(number: int) -> None:
        chance = random.Random(number)
        sent = chance.randbytes(chance.choice((1, 100, 5_000, 200_000)))
        try:
            with world.lab.inside("par"), socket.create_connection((world.par.address, 7003), timeout=30) as connection:
                writer = threading.Thread(target=_send, args=(connection, sent))
                writer.start()
                heard = bytearray()
                while len(heard) < len(sent) and (part := connection.recv(65_536)):
                    heard += part
                writer.join()
            results.append("whole" if bytes(heard) == sent else "wrong" if not sent.startswith(heard) else "cut short")
        except OSError:
            results.append("ended")

    def cut() -> None:
        world.lab.fail("ams", "fra")
        time.sleep(0.5)
        world.lab.heal("ams", "fra")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(STREAMS):
            pool.submit(stream, number)
            if number % AT_ONCE == AT_ONCE // 2:
                eventually(lambda number=number: len(results) > number - AT_ONCE, 120)
                cut()
    for between in (("par", "ams"), ("ams", "fra")):
        world.lab.link(*between, loss=0)
    print({kind: results.count(kind) for kind in sorted(set(results))})
    assert len(results) == STREAMS
    assert results.count("wrong") == 0
    assert results.count("cut short") == 0, "an end that looks whole and is not"
    assert results.count("whole") >= STREAMS * 0.9, results


def test_sessions_go_round_an_edge_that_is_cut_off_without_a_word_in_three_seconds(world: World) -> None:
    eventually(lambda: world.first_datagram_ms(7004) > FAR_MS - 1, 15, every_s=0.2)  # straight to fra
    with world.par, world.client(7004) as held:
        held.settimeout(0.2)
        held.send(b"x")
        assert held.recv(1500) == b"x"
        world.lab.fail("par", "fra")
        began = time.monotonic()

        def goes_round() -> bool:
            held.send(b"y")
            return held.recv(1500) == b"y"

        eventually(goes_round, 5, every_s=0.01)
        took_s = time.monotonic() - began
        print(f"gone round after {took_s:.2f} s")
        assert took_s < 3.0
    world.lab.heal("par", "fra")


def test_loss_on_the_way_is_loss_at_the_end_and_nothing_more(world: World) -> None:
    sent = 2_000
    for between in (("par", "ams"), ("ams", "fra")):
        world.lab.link(*between, loss=0.01)
    with world.par, world.client(7003) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        client.settimeout(1)
        heard = set()

        def listen() -> None:
            try:
                while True:
                    heard.add(client.recv(1500))
            except TimeoutError:
                return

        listening = threading.Thread(target=listen)
        listening.start()
        for number in range(sent):
            client.send(number.to_bytes(4, "big") * 50)
            time.sleep(0.001)
        listening.join()
    for between in (("par", "ams"), ("ams", "fra")):
        world.lab.link(*between, loss=0)
    assert all(datagram in {number.to_bytes(4, "big") * 50 for number in range(sent)} for datagram in heard)
    print(f"{len(heard)} of {sent} came back over four legs that each lose one in a hundred")
    assert 0.93 * sent < len(heard) < 0.99 * sent


def _send(connection: socket.socket, content: bytes) -> None:
    try:
        connection.sendall(content)
    except OSError:
        return  # what was read tells
