"""No source port left towards an origin: an alarm before, a clear, counted error then; it heals by itself.

More source addresses are more ports. The kernel of the edge has few of them here, so that the end is near.
"""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.carried import need_fast_path
from support.echo import echoes, reset, start_echo
from support.edge import Running
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs

PORTS = 8
EDGE_PORT, ORIGIN_PORT = 9000, 9001
ENGINE = {"carrier": "engine"}  # the kernel's path takes other ports: see the last test


def test_exhausted_source_ports_are_told_and_heal(
    namespaces: Namespaces, programs: Programs, make_edge: Callable[..., Running]
) -> None:
    client, middle, origin = (namespaces.make() for _ in range(3))
    namespaces.join(middle, client, 1)
    namespaces.join(middle, origin, 2)
    middle.setting("ipv4/ip_local_port_range", f"40000 {40_000 + PORTS - 1}")
    start_echo(programs, "198.18.2.2", ORIGIN_PORT, inside=origin)
    edge = make_edge("--edge-ip", "198.18.1.1", inside=middle).start()
    application = edge.create_application(f"tcp/{EDGE_PORT}", f"tcp://198.18.2.2:{ORIGIN_PORT}", x_causeway=ENGINE)

    def connect() -> socket.socket:
        with client:
            return socket.create_connection(("198.18.1.1", EDGE_PORT), timeout=3)

    held = [connect() for _ in range(PORTS)]
    try:
        assert all(echoes(connection) for connection in held)

        try:  # the reset may be faster than the connect's own return
            with connect() as refused:
                refused.sendall(b"one too many")
                assert refused.recv(100) == b"", "an answer came from nowhere"
            raise AssertionError("the client was told of a normal end")
        except ConnectionResetError:
            pass

        event = edge.event(application, cause="ports_exhausted")
        assert (event["kind"], event["status"]) == ("originError", 524)
        assert "198.18.2.2:9001" in event["message"] and "ip_local_port_range" in event["message"]
        eventually(lambda: edge.counters(application)["ports_exhausted_total"] >= 1)
        assert all(echoes(connection) for connection in held), "the others go on"

        reset(held.pop())

        def works_again() -> bool:
            with connect() as connection:
                works = echoes(connection)
                reset(connection)
            return works

        assert eventually(works_again)
    finally:
        for connection in held:
            reset(connection)


MANY = 200
SOURCES = ("198.18.2.1", "198.18.2.101", "2001:db8:2::1")


class World:
    """A client, an edge whose kernel has 200 source ports, and an origin that echoes on both families."""

    def __init__(self, namespaces: Namespaces, programs: Programs, make_edge: Callable[..., Running]) -> None:
        self.client, self.middle, self.origin = (namespaces.make() for _ in range(3))
        namespaces.join(self.middle, self.client, 1)
        namespaces.join(self.middle, self.origin, 2)
        self.middle.ip("address", "add", f"{SOURCES[1]}/32", "dev", "lo")
        self.origin.ip("route", "add", f"{SOURCES[1]}/32", "via", "198.18.2.1")
        self.middle.setting("ipv4/ip_local_port_range", f"40000 {40_000 + MANY - 1}")
        start_echo(programs, "198.18.2.2", ORIGIN_PORT, inside=self.origin)
        self.make_edge = make_edge
        self.held: list[socket.socket] = []

    def start(self, *sources: str) -> Running:
        flags = [word for source in sources for word in ("--source-ip", source)]
        self.edge = self.make_edge("--edge-ip", "198.18.1.1", *flags, inside=self.middle).start()
        self.application = self.edge.create_application(
            f"tcp/{EDGE_PORT}", f"tcp://198.18.2.2:{ORIGIN_PORT}", x_causeway=ENGINE
        )
        return self.edge

    def connect(self) -> socket.socket:
        with self.client:
            return socket.create_connection(("198.18.1.1", EDGE_PORT), timeout=3)

    def hold(self, count: int) -> None:
        """Open more connections and prove each."""
        for _ in range(count):
            self.held.append(self.connect())
            assert echoes(self.held[-1])

    def is_refused(self) -> bool:
        try:
            with self.connect() as connection:
                return not echoes(connection)
        except ConnectionResetError:
            return True

    def pressure(self) -> dict[str, Any]:
        found = self.edge.status()["edges"][0]["port_pressure"]
        assert len(found) == 1, found
        return dict(found[0])


@pytest.fixture
def world(namespaces: Namespaces, programs: Programs, make_edge: Callable[..., Running]) -> Iterator[World]:
    made = World(namespaces, programs, make_edge)
    yield made
    for connection in made.held:
        reset(connection)


def test_an_alarm_at_80_percent_a_clear_error_at_the_end_and_its_end(world: World) -> None:
    edge = world.start()
    world.hold(MANY * 79 // 100)
    eventually(lambda: world.pressure()["used"] == MANY * 79 // 100)
    assert "source ports" not in edge.output
    world.hold(MANY - len(world.held) - 30)

    towards = f"198.18.2.2:{ORIGIN_PORT}"
    line = f"tcp to {towards}: {MANY - 30} of {MANY} source ports (85%) are in use"
    eventually(lambda: line in edge.output)
    assert "--source-ip" in edge.output
    expected = {"protocol": "tcp", "origin": towards, "used": MANY - 30, "available": MANY, "share": 0.85}
    assert world.pressure() == expected

    world.hold(30)
    assert world.is_refused()
    event = edge.event(world.application, cause="ports_exhausted")
    assert "--source-ip" in event["message"]
    assert all(echoes(connection) for connection in world.held), "the others go on"

    while len(world.held) > MANY // 2:
        reset(world.held.pop())
    eventually(lambda: "enough source ports are free again" in edge.output)
    assert edge.output.count("are in use") == 1, "said once"
    world.hold(10)


def test_a_second_source_address_doubles_what_an_origin_can_take(world: World) -> None:
    edge = world.start(*SOURCES)
    world.hold(2 * MANY)
    eventually(lambda: world.pressure()["used"] == 2 * MANY)
    assert world.pressure()["available"] == 2 * MANY
    assert world.is_refused()

    reset(world.held.pop(0))
    eventually(lambda: not world.is_refused(), every_s=0.1)
    assert all(echoes(connection) for connection in world.held)
    assert edge.counters(world.application)["ports_exhausted_total"] >= 1


def test_a_source_address_that_is_gone_is_passed_over_and_told_when_it_was_the_last(world: World) -> None:
    edge = world.start("198.18.2.77", SOURCES[1])
    world.hold(4)
    world.middle.ip("address", "del", f"{SOURCES[1]}/32", "dev", "lo")
    assert world.is_refused()
    event = edge.event(world.application, cause="source_missing")
    assert event["status"] == 524 and "--source-ip" in event["message"]


def test_udp_sessions_take_their_ports_from_every_source_address(world: World) -> None:
    edge = world.start(*SOURCES)
    application = edge.create_application(f"udp/{EDGE_PORT}", f"udp://198.18.2.2:{ORIGIN_PORT}", x_causeway=ENGINE)
    clients = []
    with world.client:
        for _ in range(MANY + 100):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.settimeout(5)
            client.connect(("198.18.1.1", EDGE_PORT))
            clients.append(client)
    for client in clients:
        assert echoes(client)
    assert edge.counters(application)["sessions_evicted_total"] == 0
    for client in clients:
        assert echoes(client), "the first ones are still there"
        client.close()


FEW = 1000  # the fewest that the fast path takes


def test_the_fast_path_tells_that_its_source_ports_are_used_up_and_heals(world: World) -> None:
    need_fast_path()
    world.middle.setting("ipv4/ip_local_port_range", f"{1024 + FEW} 65000")
    edge = world.make_edge("--edge-ip", "198.18.1.1", inside=world.middle).start()
    application = edge.create_application(
        f"tcp/{EDGE_PORT}", f"tcp://198.18.2.2:{ORIGIN_PORT}", x_causeway={"carrier": "kernel"}
    )
    world.hold(FEW * 9 // 10)  # it looks for a free one no longer than 128 tries

    with pytest.raises(TimeoutError):
        for _ in range(FEW):
            with world.client:
                world.held.append(socket.create_connection(("198.18.1.1", EDGE_PORT), timeout=0.9))

    event = edge.event(application, cause="ports_exhausted")
    assert (event["kind"], event["status"]) == ("originError", 524)
    assert eventually(lambda: edge.counters(application)["ports_exhausted_total"] >= 1)
    assert all(echoes(connection) for connection in world.held), "the others go on"

    for _ in range(FEW // 2):
        reset(world.held.pop())
    world.hold(10)
