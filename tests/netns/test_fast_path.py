"""Plain flows are carried by the kernel: the same answers, records and counts, and no byte through any process."""

import itertools
import socket
from collections.abc import Iterator

import pytest
from support import echo
from support.carried import CLIENT, EDGE, ORIGIN, Middle
from support.echo import ask_udp, echoes, start_echo
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs

ECHO = 7000


@pytest.fixture(scope="module")
def middle(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Middle]:
    made = Middle(namespaces, module_programs, tmp_path_factory.mktemp("data"))
    made.edge.start()
    for family in (4, 6):
        start_echo(module_programs, ORIGIN[family], ECHO, inside=made.origin)
    yield made
    made.edge.close()
    made.edge.stop()
    made.flush()


ports = itertools.count(9000)


def origin(transport: str, family: int, port: int | str = ECHO) -> str:
    host = ORIGIN[family] if family == 4 else f"[{ORIGIN[family]}]"
    return f"{transport}://{host}:{port}"


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_goes_by_the_kernel_and_is_told_and_counted(middle: Middle, family: int) -> None:
    port = next(ports)
    application = middle.edge.create_application(f"tcp/{port}", origin("tcp", family))
    before = middle.path()["verdicts"].get("promoted", 0)

    with middle.client:
        assert echo.ask(port, EDGE[family], b"exactly this") == b"exactly this"

    assert middle.path()["verdicts"]["promoted"] == before + 1, "it went through a process"
    connect = middle.edge.event(application, kind="connect")
    disconnect = middle.edge.event(application, kind="disconnect")
    assert connect["flow"] == disconnect["flow"] and connect["connect_time_ms"]
    assert disconnect["client"].rpartition(":")[0].strip("[]") == CLIENT[family]
    assert (disconnect["client_bytes"], disconnect["origin_bytes"]) == (12, 12)
    assert (disconnect["status"], disconnect["cause"]) == (200, "closed")
    counters = middle.edge.counters(application)
    assert (counters["connections_total"], counters["connections_open"]) == (1, 0)
    assert (counters["bytes_ingress"], counters["bytes_egress"]) == (12, 12)


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_go_by_the_kernel(middle: Middle, family: int) -> None:
    port = next(ports)
    application = middle.edge.create_application(f"udp/{port}", origin("udp", family))
    with middle.client:
        assert ask_udp(port, EDGE[family], b"a datagram") == b"a datagram"
    assert middle.edge.event(application, kind="connect")["protocol"] == "udp"
    counters = middle.edge.counters(application)
    assert (counters["bytes_ingress"], counters["bytes_egress"]) == (10, 10)
    assert (counters["datagrams_ingress"], counters["datagrams_egress"]) == (1, 1)
    eventually(lambda: middle.edge.counters(application)["connections_open"] == 1)


def test_who_carries_is_told_and_why(middle: Middle) -> None:
    port = next(ports)
    application = middle.edge.create_application(f"tcp/{port}", origin("tcp", 4))
    told = middle.application(application)
    listeners = {listener["address"]: listener for listener in told["listeners"]}
    assert told["carrier"] == "kernel and engine"
    assert listeners[EDGE[4]]["carrier"] == "kernel" and listeners[EDGE[4]]["not_carried"] is None
    assert listeners[EDGE[6]]["carrier"] == "engine"
    assert listeners[EDGE[6]]["not_carried"]["code"] == "origin_family"


def test_the_engine_carries_if_it_is_asked_to(middle: Middle) -> None:
    port = next(ports)
    application = middle.edge.create_application(f"tcp/{port}", origin("tcp", 4), x_causeway={"carrier": "engine"})
    before = middle.path()["verdicts"].get("promoted", 0)
    with middle.client:
        assert echo.ask(port, EDGE[4]) == b"hello"
    assert middle.path()["verdicts"].get("promoted", 0) == before
    assert middle.edge.event(application, kind="disconnect")["client_bytes"] == 5


def test_a_deleted_application_lets_its_connection_go_on_and_takes_no_other(middle: Middle) -> None:
    port = next(ports)
    application = middle.edge.create_application(f"tcp/{port}", origin("tcp", 4))
    with middle.client:
        held = socket.create_connection((EDGE[4], port), timeout=5)
    with held:
        assert echoes(held)
        middle.edge.delete_application(application)
        with middle.client, pytest.raises(ConnectionRefusedError):
            socket.create_connection((EDGE[4], port), timeout=5)
        assert echoes(held)


def test_a_deleted_application_that_closes_resets_its_connection(middle: Middle) -> None:
    port = next(ports)
    application = middle.edge.create_application(f"tcp/{port}", origin("tcp", 4), x_causeway={"on_delete": "close"})
    with middle.client:
        held = socket.create_connection((EDGE[4], port), timeout=5)
    with held:
        assert echoes(held)
        middle.edge.delete_application(application)
        held.settimeout(5)
        with pytest.raises(ConnectionResetError):
            held.recv(1)
            raise AssertionError("the client was told of a normal end")
    assert middle.edge.event(application, kind="disconnect", cause="drained")["client_bytes"] == 10
