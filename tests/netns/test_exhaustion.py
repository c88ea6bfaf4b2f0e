"""No source port left towards an origin: a clear, counted error; the client hears at once; it heals by itself."""

import socket
from collections.abc import Callable

from support.echo import echoes, reset, start_echo
from support.edge import Running
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs

PORTS = 8
EDGE_PORT, ORIGIN_PORT = 9000, 9001


def test_exhausted_source_ports_are_told_and_heal(
    namespaces: Namespaces, programs: Programs, make_edge: Callable[..., Running]
) -> None:
    client, middle, origin = (namespaces.make() for _ in range(3))
    namespaces.join(middle, client, 1)
    namespaces.join(middle, origin, 2)
    middle.setting("ipv4/ip_local_port_range", f"40000 {40_000 + PORTS - 1}")
    start_echo(programs, "198.18.2.2", ORIGIN_PORT, inside=origin)
    edge = make_edge("--edge-ip", "198.18.1.1", inside=middle).start()
    application = edge.create_application(f"tcp/{EDGE_PORT}", f"tcp://198.18.2.2:{ORIGIN_PORT}")

    def connect() -> socket.socket:
        with client:
            return socket.create_connection(("198.18.1.1", EDGE_PORT), timeout=3)

    held = [connect() for _ in range(PORTS)]
    try:
        assert all(echoes(connection) for connection in held)

        with connect() as refused:
            refused.sendall(b"one too many")
            try:
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
