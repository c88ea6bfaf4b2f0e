"""Origins by name: a real DNS server says where they are, changes its mind, and goes away."""

import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.echo import ask, start_echo
from support.edge import Running
from support.names import NameServer
from support.namespaces import Namespaces
from support.patience import eventually
from support.ports import free_port
from support.program import Programs

TTL_S = 5  # the shortest that is allowed


@dataclass(frozen=True, slots=True)
class World:
    """An edge that asks a name server, and an origin on several loopback addresses that says which one it is."""

    edge: Running
    names: NameServer
    origin_port: int

    def front(self, name: str, kind: str = "") -> tuple[int, str]:
        """An application for the name; answers its port and its id."""
        port = free_port()
        origin = {"type": kind, "name": f"{name}.example.net", "ttl": TTL_S}
        made = self.edge.create_application(f"tcp/{port}", origin_dns=origin, origin_port=self.origin_port)
        return port, made


@pytest.fixture(scope="module")
def world(module_programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("names")
    names = NameServer(module_programs, folder)
    origin_port = start_echo(module_programs, "127.0.0.1", greeting="first ")
    start_echo(module_programs, "127.0.0.2", origin_port, greeting="second ")
    start_echo(module_programs, "::1", origin_port, greeting="sixth ")
    flags = ["--edge-ip", "127.0.0.1", "--edge-ip", "::1", "--resolver", names.address]
    edge = Running(module_programs, folder / "data", *flags).start()
    yield World(edge, names, origin_port)
    edge.close()


@pytest.fixture
def nameless(world: World) -> Iterator[World]:
    """The name server can be stopped; it is back for the next test."""
    yield world
    world.names.program.stop()
    world.names.start()


def is_cut(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a connection ends without a byte; a timeout or a closed port is something else."""
    try:
        return ask(port, address) == b""
    except OSError as error:
        assert error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN), error
        return True


def test_a_name_leads_to_its_address_of_the_asked_family(world: World) -> None:
    world.names.names(four="127.0.0.1", six="::1", both="127.0.0.2 ::1")
    cases = [("four", "A", b"first "), ("six", "AAAA", b"sixth "), ("four", "", b"first "), ("six", "", b"sixth ")]
    cases += [("both", "AAAA", b"sixth "), ("both", "A", b"second "), ("both", "", b"second ")]
    for name, kind, greeting in cases:
        port, _ = world.front(name, kind)
        assert ask(port) == greeting + b"hello", (name, kind)


def test_the_next_address_of_a_name_is_tried_when_the_first_does_not_answer(world: World) -> None:
    world.names.names(spare="127.0.0.9 ::1")  # nobody listens on the first
    port, _ = world.front("spare")
    assert ask(port) == b"sixth hello"


def test_a_new_address_is_followed_after_the_ttl_and_open_connections_stay(world: World) -> None:
    world.names.names(moving="127.0.0.1")
    port, _ = world.front("moving")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        assert connection.recv(6) == b"first "
        world.names.names(moving="127.0.0.2")
        eventually(lambda: ask(port) == b"second hello", within_s=TTL_S * 1.1 + 2)
        connection.sendall(b"still here")
        assert connection.recv(10) == b"still here"


def test_the_last_good_address_is_kept_when_the_name_server_dies(nameless: World) -> None:
    world = nameless
    world.names.names(kept="127.0.0.1")
    port, _ = world.front("kept")
    assert ask(port) == b"first hello"
    world.names.program.stop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:  # is asked, and never answers
        silent.bind(("127.0.0.1", world.names.port))
        silent.settimeout(TTL_S * 1.1 + 2)
        while b"\x04kept\x07example\x03net" not in silent.recv(2_000):
            pass
        for _ in range(20):
            assert ask(port) == b"first hello"


def test_a_name_that_does_not_exist_is_a_resolve_event_and_heals(world: World) -> None:
    port, application = world.front("missing")
    assert is_cut(port)
    event = world.edge.event(application, kind="resolveOrigin", status=531)
    assert (event["cause"], event["origin"]) == ("origin_name_not_found", None)
    assert event["message"]
    world.names.names(missing="127.0.0.1")
    eventually(lambda: ask(port) == b"first hello", within_s=8)


def test_a_name_server_that_is_gone_from_the_start_is_told_apart_from_a_missing_name(nameless: World) -> None:
    world = nameless
    world.names.program.stop()
    port, application = world.front("anything")
    eventually(lambda: is_cut(port))
    assert world.edge.event(application, kind="resolveOrigin")["status"] == 530


def test_a_name_that_points_where_nobody_may_go_is_refused(
    namespaces: Namespaces, programs: Programs, make_edge: Callable[..., Running], tmp_path: Path
) -> None:
    """The edge has a public address here, so loopback is off limits; something listens there to prove it."""
    middle, client = namespaces.make(), namespaces.make()
    namespaces.join(middle, client, 1)
    names = NameServer(programs, tmp_path, inside=middle)
    origin_port = start_echo(programs, "127.0.0.1", greeting="reached ", inside=middle)
    edge = make_edge("--edge-ip", "198.18.1.1", "--resolver", names.address, inside=middle).start()
    world = World(edge, names, origin_port)
    traps = ["169.254.169.254", "127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1"]
    names.names(**{f"trap{number}": address for number, address in enumerate(traps)})
    for number, address in enumerate(traps):
        port, application = world.front(f"trap{number}")
        with client:
            assert is_cut(port, "198.18.1.1"), address
        event = edge.event(application, kind="originError")
        assert (event["status"], event["cause"]) == (532, "origin_denied"), address
