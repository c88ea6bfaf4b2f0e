"""`x_causeway.transparent`: the origin sees the client's own address and port, or the listener is refused.

The origin's default route leads through the edge, which does not forward anything else.
"""

import itertools
import os
import signal
import socket
from collections.abc import Iterator

import pytest
from support.carried import CLIENT, EDGE, ORIGIN, Middle
from support.echo import reset
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs

CLEAR = {"transparent": True}
WAIT_S = 10.0
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
ports = itertools.count(9000, 10)


@pytest.fixture(scope="module")
def middle(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Middle]:
    made = Middle(namespaces, module_programs, tmp_path_factory.mktemp("data"))
    for family, back in ((4, "198.18.2.1"), (6, "2001:db8:2::1")):
        made.origin.ip(f"-{family}", "route", "add", "default", "via", back)
    made.edge.start()
    yield made
    made.edge.close()
    made.edge.stop()
    made.flush()


def host(family: int) -> str:
    return ORIGIN[family] if family == 4 else f"[{ORIGIN[family]}]"


def listen(middle: Middle, family: int, port: int) -> socket.socket:
    with middle.origin:
        server = socket.create_server((ORIGIN[family], port), family=FAMILY[family])
    server.settimeout(WAIT_S)
    return server


def connect(middle: Middle, family: int, port: int) -> socket.socket:
    with middle.client:
        return socket.create_connection((EDGE[family], port), timeout=WAIT_S)


def accept(server: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
    accepted, peer = server.accept()
    accepted.settimeout(WAIT_S)
    return accepted, peer[:2]


def pass_on(sender: socket.socket, receiver: socket.socket, words: bytes) -> None:
    sender.sendall(words)
    with receiver.makefile("rb", buffering=0) as stream:
        assert stream.read(len(words)) == words


def make(middle: Middle, protocol: str, family: int, origin_port: int | str, first: int, last: int) -> str:
    return middle.edge.create_application(
        f"{protocol}/{first}-{last}",
        f"{protocol}://{host(family)}:{origin_port}",
        edge_ips={"type": "dynamic", "connectivity": f"ipv{family}"},
        x_causeway=CLEAR,
    )


@pytest.mark.parametrize("family", [4, 6])
def test_the_origin_accepts_the_client_itself_through_a_range_and_it_is_recorded(middle: Middle, family: int) -> None:
    first = next(ports)
    application = make(middle, "tcp", family, "7000-7009", first, first + 9)
    with listen(middle, family, 7003) as server, connect(middle, family, first + 3) as client:
        accepted, peer = accept(server)
        with accepted:
            assert peer == client.getsockname()[:2] and peer[0] == CLIENT[family]
            pass_on(client, accepted, b"to the origin")
            client.shutdown(socket.SHUT_WR)
            assert accepted.recv(1) == b"", "the half-close did not arrive"
            pass_on(accepted, client, b"after it")
    end = middle.edge.event(application, kind="disconnect")
    assert (end["client_bytes"], end["origin_bytes"], end["cause"]) == (13, 8, "closed")
    assert end["client"].endswith(f":{peer[1]}")
    counters = middle.edge.counters(application)
    assert (counters["connections_total"], counters["bytes_ingress"], counters["bytes_egress"]) == (1, 13, 8)
    told = middle.application(application)
    assert told["carrier"] == "kernel" and [at["state"] for at in told["listeners"]] == ["running"]


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_come_from_the_client_itself(middle: Middle, family: int) -> None:
    port = next(ports)
    application = make(middle, "udp", family, 7100, port, port)
    with middle.origin:
        server = socket.socket(FAMILY[family], socket.SOCK_DGRAM)
    with middle.client:
        client = socket.socket(FAMILY[family], socket.SOCK_DGRAM)
    with server, client:
        server.bind((ORIGIN[family], 7100))
        server.settimeout(WAIT_S)
        client.settimeout(WAIT_S)
        client.connect((EDGE[family], port))
        for words in (b"", b"one", b"a" * 4000):
            client.send(words)
            heard, peer = server.recvfrom(65_535)
            assert (heard, peer[:2]) == (words, client.getsockname()[:2])
            server.sendto(words, peer)
            assert client.recv(65_535) == words
    assert eventually(lambda: middle.edge.counters(application)["bytes_ingress"]) == 4003


@pytest.mark.parametrize("family", [4, 6])
def test_resets_arrive_on_the_other_side(middle: Middle, family: int) -> None:
    port = next(ports)
    application = make(middle, "tcp", family, 7200, port, port)
    with listen(middle, family, 7200) as server:
        for who in ("client", "origin"):
            client = connect(middle, family, port)
            accepted, _ = accept(server)
            gone, left = (client, accepted) if who == "client" else (accepted, client)
            reset(gone)
            with left, pytest.raises(ConnectionResetError):
                left.recv(1)
                raise AssertionError("told as a normal end")
            middle.edge.event(application, kind="disconnect", cause=f"{who}_reset")


def test_connections_live_through_kill_9_and_new_ones_come(middle: Middle) -> None:
    port = next(ports)
    application = make(middle, "tcp", 4, 7300, port, port)
    with listen(middle, 4, 7300) as server, connect(middle, 4, port) as held:
        accepted, peer = accept(server)
        with accepted:
            assert middle.edge.program
            for pid in [middle.edge.program.pid, *middle.edge.children]:
                os.kill(pid, signal.SIGKILL)
            middle.edge.program.wait()
            pass_on(held, accepted, b"nobody is there")
            with connect(middle, 4, port) as later:
                found, its_peer = accept(server)
                with found:
                    assert its_peer == later.getsockname()
                    pass_on(later, found, b"hello")
            middle.edge.start()
            pass_on(accepted, held, b"and back")
            assert peer == held.getsockname()
    middle.edge.event(application, kind="disconnect", client_bytes=15, origin_bytes=8)


REFUSED = {  # why: the origin, and what else is asked
    "origin_local": (f"tcp://{EDGE[4]}:7000", {}),
    "origin_family": (f"tcp://[{ORIGIN[6]}]:7000", {}),
    "origin_unreachable": ("tcp://203.0.113.9:7000", {}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_listener_that_cannot_be_carried_is_refused_and_nobody_answers_there(middle: Middle, why: str) -> None:
    origin, more = REFUSED[why]
    port = next(ports)
    body = {
        "protocol": f"tcp/{port}",
        "dns": {"type": "CNAME", "name": f"no-{port}.example.net"},
        "origin_direct": [origin],
        "edge_ips": {"type": "dynamic", "connectivity": "ipv4"},
        "x_causeway": CLEAR | more,
    }
    answer = middle.edge.http.post(middle.edge.applications, json=body)
    assert answer.status_code == 400, answer.text
    said = answer.json()["errors"][0]
    assert said["side"] == "operator" and "x_causeway.transparent: only the kernel can" in said["message"]
    with pytest.raises(ConnectionRefusedError):
        connect(middle, 4, port)


def test_a_port_of_another_program_is_not_taken_from_it(middle: Middle) -> None:
    port = next(ports)
    with middle.middle, socket.create_server((EDGE[4], port)):
        answer = middle.edge.http.post(
            middle.edge.applications,
            json={
                "protocol": f"tcp/{port}",
                "dns": {"type": "CNAME", "name": f"taken-{port}.example.net"},
                "origin_direct": [f"tcp://{ORIGIN[4]}:7000"],
                "edge_ips": {"type": "dynamic", "connectivity": "ipv4"},
                "x_causeway": CLEAR,
            },
        )
    assert answer.status_code == 400 and str(port) in answer.json()["errors"][0]["message"], answer.text


def test_a_way_that_is_lost_refuses_the_listener_and_one_that_is_back_serves_again(middle: Middle) -> None:
    middle.middle.ip("route", "add", "203.0.113.0/24", "via", ORIGIN[4])
    middle.origin.ip("address", "add", "203.0.113.1/32", "dev", "lo")
    port = next(ports)
    application = middle.edge.create_application(
        f"tcp/{port}",
        "tcp://203.0.113.1:7400",
        edge_ips={"type": "dynamic", "connectivity": "ipv4"},
        x_causeway=CLEAR,
    )

    def state() -> tuple[str, str | None]:
        (listener,) = middle.application(application)["listeners"]
        return listener["state"], (listener["reason"] or {}).get("code")

    assert state() == ("running", None)
    middle.middle.ip("route", "delete", "203.0.113.0/24")
    eventually(lambda: state() == ("refused", "origin_unreachable"), WAIT_S)
    with pytest.raises(ConnectionRefusedError):
        connect(middle, 4, port)
    middle.middle.ip("route", "add", "203.0.113.0/24", "via", ORIGIN[4])
    eventually(lambda: state() == ("running", None), WAIT_S)
    with middle.origin:
        server = socket.create_server(("203.0.113.1", 7400))
    server.settimeout(WAIT_S)
    with server, connect(middle, 4, port) as client:
        accepted, peer = accept(server)
        with accepted:
            assert peer == client.getsockname()


def test_an_application_becomes_transparent_and_back_under_its_connections(middle: Middle) -> None:
    port = next(ports)
    application = make(middle, "tcp", 4, 7500, port, port)
    path = f"{middle.edge.applications}/{application}"
    with listen(middle, 4, 7500) as server:
        held = connect(middle, 4, port)
        first, peer = accept(server)
        assert peer == held.getsockname()
        middle.edge.result("PATCH", path, {"x_causeway": {"transparent": False, "carrier": "engine"}})
        with connect(middle, 4, port):
            accept(server)[0].close()
        pass_on(held, first, b"goes on")
        middle.edge.result("PATCH", path, {"x_causeway": {"transparent": True, "carrier": "auto"}})
        with connect(middle, 4, port) as client:
            accepted, peer = accept(server)
            assert peer == client.getsockname()
            accepted.close()
        pass_on(first, held, b"still")
        first.close()
        held.close()
