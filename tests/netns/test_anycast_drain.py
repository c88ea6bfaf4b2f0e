"""`causeway drain` of an edge in one PoP of two: no connection is lost, whoever carries it.

ams has a control of its own, with nats-server, beside the edge that is drained; fra is a `causeway up`.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.anycast import ADDRESS, POPS, Stream, World
from support.echo import echoes, start_echo
from support.edge import CAUSEWAY, Running
from support.namespaces import Namespaces
from support.nats import NatsServer
from support.outpost import Outpost
from support.patience import eventually
from support.program import Programs, need, run

BY_ENGINE, BY_KERNEL = 7000, 7001


class Fleet:
    """The world, with an edge of control's in ams."""

    def __init__(self, namespaces: Namespaces, programs: Programs) -> None:
        need("nats-server")
        self.world = World(namespaces, programs)
        ams = self.world.pops["ams"]
        self.place, self.folder = ams.network, programs.folder
        with self.place:
            self.nats = NatsServer(programs, self.folder / "nats").start()
        self.control = Running(
            programs, self.folder / "control", "--exchange", self.nats.url, "--workers", "1", inside=self.place
        ).start()
        flags = [flag for at, flag in enumerate(ams.flags) if "--edge-ip" not in ams.flags[max(0, at - 1) : at + 1]]
        self.edge = Outpost(programs, self.folder / "ams-1", self.nats.url, "ams-1", ADDRESS, *flags)
        with self.place:
            self.edge.start()
        self.world.pops["fra"].heal()
        self.world.pops["fra"].await_readiness()
        for name, edge in {"ams": self.control, "fra": self.world.pops["fra"].edge}.items():
            origin = f"198.18.{POPS[name]}.1"  # in the router, so that the kernel may carry
            for port, carrier in ((BY_ENGINE, "engine"), (BY_KERNEL, "kernel")):
                echo = start_echo(programs, origin, greeting=f"{name} ", inside=self.world.router)
                edge.create_application(f"tcp/{port}", f"tcp://{origin}:{echo}", x_causeway={"carrier": carrier})
                edge.create_application(f"udp/{port}", f"udp://{origin}:{echo}", x_causeway={"carrier": carrier})

    def drain(self, *flags: str) -> None:
        with self.place:
            token = f"CAUSEWAY_API_TOKEN={self.control.token}"
            run("env", token, CAUSEWAY, "drain", "ams-1", "--url", self.control.url, *flags)

    def close(self) -> None:
        self.control.close()
        self.world.close()


@pytest.fixture(scope="module")
def fleet(namespaces: Namespaces, module_programs: Programs) -> Iterator[Fleet]:
    made = Fleet(namespaces, module_programs)
    yield made
    made.close()


def test_a_drain_loses_no_connection_of_the_engine_or_the_kernel(fleet: Fleet) -> None:
    world = fleet.world
    ports = (BY_ENGINE, BY_KERNEL)
    eventually(lambda: world.ways() == ["ams", "fra"], 30)
    eventually(lambda: [world.ask(port=port) for port in ports] == ["ams", "ams"], 10)
    old = [world.connect(port) for port in ports for _ in range(10)]
    assert {connection.recv(4) for connection in old} == {b"ams "}
    streams = [Stream(world, port=port) for port in ports]
    with ExitStack() as flowing:
        for stream in streams:
            flowing.enter_context(stream.flowing())
        time.sleep(0.3)
        fleet.drain()
        eventually(lambda: [world.ask(port=port) for port in ports] == ["fra", "fra"], 10)
        passed_on = [world.connect(port) for port in ports for _ in range(10)]
        assert {connection.recv(4) for connection in passed_on} == {b"fra "}
        time.sleep(3.0)  # it must not leave while connections last
        assert world.ways() == ["ams", "fra"]
        for connection in old:
            assert echoes(connection)
            connection.close()
        eventually(lambda: world.ways() == ["fra"], 15)
        assert all(echoes(connection) for connection in passed_on)
        time.sleep(0.5)
    for port, stream in zip(ports, streams, strict=True):
        assert stream.failures() == []
        print(f"port {port}: {len(stream.results)} new connections, the longest gap {stream.gap_s() * 1000:.0f} ms")
    for connection in passed_on:
        connection.close()


def test_a_drain_leaves_no_datagram_without_an_answer(fleet: Fleet) -> None:
    """Sessions that send go on where they are until routers are told; new ones are in the other PoP at once."""
    world = fleet.world
    fleet.drain("--undo")
    eventually(lambda: world.ways() == ["ams", "fra"], 30)
    eventually(lambda: world.ask() == "ams", 10)
    talks = [Talk(world, port) for port in (BY_ENGINE, BY_KERNEL)]
    held = world.connect()  # so that the drain lasts
    for talk in talks:
        talk.start()
    fleet.drain()
    eventually(lambda: world.ask() == "fra", 10)
    time.sleep(2.0)
    assert world.ways() == ["ams", "fra"]
    held.close()
    time.sleep(1.0)
    for talk in talks:
        talk.end()
        print(f"port {talk.port}: {talk.asked} datagrams, {talk.unanswered} without an answer")
        assert talk.unanswered == 0
    eventually(lambda: world.ways() == ["fra"], 90)


class Talk(threading.Thread):
    """One session that goes on, and a new one each time, every 50 ms."""

    def __init__(self, world: World, port: int) -> None:
        super().__init__()
        self.world, self.port, self.asked, self.unanswered = world, port, 0, 0
        self._is_over = threading.Event()

    def run(self) -> None:
        with self.session() as old:
            while not self._is_over.wait(0.05):
                self.ask(old)
                with self.session() as new:
                    self.ask(new)

    def session(self) -> socket.socket:
        with self.world.client:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(2.0)
        made.connect((ADDRESS, self.port))
        return made

    def ask(self, session: socket.socket) -> None:
        self.asked += 1
        try:
            session.send(b"hello")
            self.unanswered += session.recv(100) != b"hello"
        except OSError:
            self.unanswered += 1

    def end(self) -> None:
        self._is_over.set()
        self.join()


def test_a_drain_that_is_undone_loses_no_connection_either(fleet: Fleet) -> None:
    world = fleet.world
    fleet.drain("--undo")
    eventually(lambda: world.ways() == ["ams", "fra"], 30)
    eventually(lambda: world.ask() == "ams")
    old = world.connect()
    with Stream(world).flowing() as stream:
        fleet.drain()
        eventually(lambda: world.ask() == "fra", 10)
        passed_on = world.connect()
        assert passed_on.recv(4) == b"fra "
        fleet.drain("--undo")
        eventually(lambda: world.ask() == "ams", 10)
        assert old.recv(4) == b"ams "
        assert echoes(old)
        assert echoes(passed_on)
    assert stream.failures() == []
    assert world.ways() == ["ams", "fra"]
    old.close()
    passed_on.close()
