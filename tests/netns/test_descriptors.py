"""At the limit of open files: what is established lives, newcomers are refused at once, the API answers, it heals.

Connections take two descriptors, UDP sessions one, bulk streams two more for their pipe: none may take the last.
"""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.echo import ask, ask_udp, echoes, reset, start_echo
from support.edge import Running
from support.patience import eventually
from support.ports import free_port
from support.program import Programs, need

LIMIT = 1024
ESTABLISHED = 20
HEALED_S = 1.0
POURING = Path(__file__).parents[1] / "support/pouring_server.py"


class World:
    """An edge with few descriptors, an echo and an origin that pours, and connections made before the flood."""

    def __init__(self, programs: Programs, edge: Running) -> None:
        self.edge = edge
        self.echo_port, self.bulk_port, pouring_port = free_port(), free_port(), free_port()
        echo = start_echo(programs)
        pouring = programs.start(sys.executable, POURING, "127.0.0.1", str(pouring_port))
        eventually(lambda: "listening" in pouring.output)
        self.tcp = edge.create_application(f"tcp/{self.echo_port}", f"tcp://127.0.0.1:{echo}")
        self.udp = edge.create_application(f"udp/{self.echo_port}", f"udp://127.0.0.1:{echo}")
        self.bulk = edge.create_application(f"tcp/{self.bulk_port}", f"tcp://127.0.0.1:{pouring_port}")
        self.established = [self.connect(self.echo_port) for _ in range(ESTABLISHED)]
        assert all(echoes(connection) for connection in self.established)
        self.held: list[socket.socket] = []

    def connect(self, port: int) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=3)

    def flood(self, count: int) -> int:
        """TCP connections that stay, each asked once; answers how many were refused. One that hangs fails the test."""
        refused = 0
        for _ in range(count):
            try:
                connection = self.connect(self.echo_port)
                self.held.append(connection)
                assert echoes(connection)
            except ConnectionResetError:
                refused += 1
        return refused

    def flood_udp(self, count: int) -> None:
        """Datagrams of that many clients, who stay and do not listen."""
        for _ in range(count):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.held.append(client)
            client.sendto(b"hello", ("127.0.0.1", self.echo_port))

    def fill_pipes(self, count: int) -> None:
        """Bulk streams whose readers take nothing. At the limit a connection may be refused before it is made."""
        for _ in range(count):
            with suppress(ConnectionResetError):
                self.held.append(self.connect(self.bulk_port))

    def is_governed(self) -> bool:
        """The API takes connections, reads, and changes what the edge does."""
        with self.edge.client() as http:
            assert http.get("/api/v1/status").status_code == 200
        port = free_port()
        self.edge.delete_application(self.edge.create_application(f"tcp/{port}", "tcp://127.0.0.1:9"))
        return True

    def end_flood(self) -> None:
        for connection in self.held:
            if connection.type == socket.SOCK_STREAM:
                reset(connection)
            else:
                connection.close()
        self.held.clear()


@pytest.fixture
def world(programs: Programs, make_edge: Callable[..., Running]) -> Iterator[World]:
    need("prlimit")
    edge = make_edge("--workers", "2", under=("prlimit", f"--nofile={LIMIT}:{LIMIT}")).start()
    made = World(programs, edge)
    yield made
    made.end_flood()
    for connection in made.established:
        reset(connection)


def test_a_flood_of_connections(world: World) -> None:
    refused = world.flood(LIMIT)
    assert refused > LIMIT // 2, "each takes two descriptors"
    assert all(echoes(connection) for connection in world.established)
    assert world.is_governed()
    assert world.edge.event(world.tcp, cause="out_of_resources")
    world.end_flood()
    eventually(lambda: ask(world.echo_port) == b"hello", HEALED_S)
    assert world.is_governed()


def test_a_flood_of_udp_clients_and_of_connections(world: World) -> None:
    world.flood_udp(LIMIT)
    refused = world.flood(LIMIT)
    world.flood_udp(LIMIT)
    assert refused > LIMIT // 2
    assert all(echoes(connection) for connection in world.established)
    assert world.is_governed()
    assert ask_udp(world.echo_port) == b"hello", "a new session takes the place of an old one"
    world.end_flood()
    eventually(lambda: ask(world.echo_port) == b"hello", HEALED_S)


def test_the_kernel_s_table_of_descriptors_is_as_large_as_it_may_become_before_anybody_connects(world: World) -> None:
    """It grows by doubling, and whoever wants a descriptor then waits until all processors have seen it."""
    told = Path(f"/proc/{world.edge.serving_pid}/status").read_text()
    [size] = [int(line.split()[1]) for line in told.splitlines() if line.startswith("FDSize:")]
    assert size >= LIMIT, size


def test_bulk_streams_with_their_pipes_and_a_flood(world: World) -> None:
    world.fill_pipes(150)
    refused = world.flood(LIMIT)
    world.fill_pipes(10)
    assert refused > LIMIT // 2
    assert all(echoes(connection) for connection in world.established)
    assert world.is_governed()
    world.end_flood()
    eventually(lambda: ask(world.echo_port) == b"hello", HEALED_S)
