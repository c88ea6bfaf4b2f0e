"""An answer of the API means that the edge already serves it, and nobody else's connection notices."""

import socket

import pytest
from support.echo import ask, start_echo
from support.edge import ZONE, Running
from support.keeper import Keeper
from support.ports import free_port, free_ports
from support.program import Programs

OTHERS = 20


def body(port: int, origin: int) -> dict[str, object]:
    name = {"type": "CNAME", "name": f"changing.{ZONE}"}
    return {"protocol": f"tcp/{port}", "dns": name, "origin_direct": [f"tcp://127.0.0.1:{origin}"]}


@pytest.fixture(scope="module")
def origins(module_programs: Programs) -> tuple[int, int]:
    return start_echo(module_programs, greeting="first "), start_echo(module_programs, greeting="second ")


def test_the_first_byte_goes_through_as_soon_as_the_api_has_answered(edge: Running, origins: tuple[int, int]) -> None:
    for _ in range(30):
        port = free_port()
        edge.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origins[0]}")
        assert ask(port) == b"first hello"  # at once: no second try
        assert ask(port, "::1") == b"first hello"


def test_changes_cut_no_connection_of_other_applications(
    edge: Running, module_programs: Programs, origins: tuple[int, int]
) -> None:
    echo, first = start_echo(module_programs), free_ports(OTHERS)
    for port in range(first, first + OTHERS):
        edge.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{echo}")
    port = free_port()
    with Keeper([("127.0.0.1", other) for other in range(first, first + OTHERS)]) as keeper:
        changing = edge.result("POST", edge.applications, body(port, origins[0]))["id"]
        for turn in range(10):
            edge.result("PUT", f"{edge.applications}/{changing}", body(port, origins[turn % 2]))
            assert ask(port) == (b"first hello", b"second hello")[turn % 2]
            unrelated = edge.create_application(f"udp/{free_port()}", f"udp://127.0.0.1:{echo}")
            edge.delete_application(unrelated)
        edge.delete_application(changing)
    assert not keeper.cut
    assert keeper.rounds > 0


def test_a_change_of_origin_leaves_open_connections_where_they_are(edge: Running, origins: tuple[int, int]) -> None:
    port = free_port()
    application = edge.result("POST", edge.applications, body(port, origins[0]))["id"]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection, connection.makefile("rwb") as stream:
        assert stream.read(6) == b"first "
        edge.result("PUT", f"{edge.applications}/{application}", body(port, origins[1]))
        assert ask(port) == b"second hello"
        stream.write(b"still here")
        stream.flush()
        assert stream.read(10) == b"still here"


def test_a_deleted_application_closes_its_port_at_once(edge: Running, origins: tuple[int, int]) -> None:
    port = free_port()
    application = edge.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origins[0]}")
    assert ask(port) == b"first hello"
    edge.delete_application(application)
    for address in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionRefusedError):
            ask(port, address)


@pytest.mark.parametrize("on_delete", ["drain", "close"])
def test_sessions_of_a_deleted_application_end_as_it_says_and_nobody_new_gets_in(
    edge: Running, origins: tuple[int, int], on_delete: str
) -> None:
    port = free_port()
    policy = {"on_delete": on_delete}
    application = edge.create_application(f"udp/{port}", f"udp://127.0.0.1:{origins[0]}", x_causeway=policy)
    with datagrams(port) as before:
        before.send(b"before")
        assert before.recv(100) == b"before"
        edge.delete_application(application)
        for _ in range(8):
            with datagrams(port) as after, pytest.raises(ConnectionRefusedError):
                after.send(b"after")
                after.recv(100)
        before.send(b"still here")
        if on_delete == "drain":
            assert before.recv(100) == b"still here"
        else:
            with pytest.raises(ConnectionRefusedError):
                before.recv(100)


def datagrams(port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(0.3)
    client.connect(("127.0.0.1", port))
    return client
