"""What is left after a kill, a damaged disk, a second start: traffic first, and the reason in plain words."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.echo import ask, ask_udp, echoes, start_echo
from support.edge import Running
from support.patience import eventually
from support.ports import free_port, free_ports
from support.program import Programs

APPLICATIONS = 100
RESTART_S = 3.0  # promised: from the start of the process until every application answers


@pytest.fixture
def edge(make_edge: Callable[..., Running]) -> Running:
    return make_edge().start()


@pytest.fixture
def port(edge: Running, programs: Programs) -> int:
    """The edge's port of one application that echoes."""
    chosen = free_port()
    edge.create_application(f"tcp/{chosen}", f"tcp://127.0.0.1:{start_echo(programs)}")
    return chosen


def newest_snapshots(edge: Running) -> list[Path]:
    return sorted((edge.data_dir / "edge").glob("snapshot-*"), reverse=True)


@pytest.mark.alone
def test_after_kill_9_every_application_answers_within_three_seconds(edge: Running, programs: Programs) -> None:
    origin, first = start_echo(programs), free_ports(APPLICATIONS)
    for port in range(first, first + APPLICATIONS):
        transport = "udp" if port % 10 == 0 else "tcp"
        edge.create_application(f"{transport}/{port}", f"{transport}://127.0.0.1:{origin}")
    edge.kill()

    began_s = time.monotonic()
    edge.launch()
    for port in range(first, first + APPLICATIONS):
        left_s = RESTART_S - (time.monotonic() - began_s)
        asked = ask_udp if port % 10 == 0 else ask
        assert eventually(lambda port=port, asked=asked: asked(port), left_s, every_s=0.01) == b"hello"
    took_s = time.monotonic() - began_s

    assert took_s <= RESTART_S
    print(f"{APPLICATIONS} applications answered {took_s:.2f} s after the start")
    eventually(lambda: edge.readiness().status_code == 200, 10)
    assert edge.status()["applications"] == APPLICATIONS


def test_a_damaged_snapshot_is_passed_over_and_told(edge: Running, port: int) -> None:
    edge.kill()
    damaged = newest_snapshots(edge)[0]
    content = bytearray(damaged.read_bytes())
    content[-20] ^= 0x01
    damaged.write_bytes(content)

    edge.start()

    assert ask(port) == b"hello"
    [reason] = edge.status()["edges"][0]["rejected_snapshots"]
    assert damaged.name in reason
    assert damaged.name in edge.output


@pytest.mark.parametrize("harm", ["garbage", "empty page", "directory"])
def test_traffic_goes_on_when_the_database_is_damaged(edge: Running, port: int, harm: str) -> None:
    edge.kill()
    database = edge.data_dir / "causeway.sqlite3"
    for file in edge.data_dir.glob("causeway.sqlite3*"):
        file.unlink()
    if harm == "directory":
        database.mkdir()
    else:
        database.write_bytes(os.urandom(8192) if harm == "garbage" else b"SQLite format 3\0" + bytes(8192))

    edge.start(ready=503)

    assert ask(port) == b"hello"
    told = edge.readiness().text
    assert "causeway.sqlite3" in told and "last good snapshot" in told
    with edge.client() as http:
        for method, path in (("GET", "/client/v4/zones"), ("POST", "/client/v4/zones"), ("GET", "/client/v4/accounts")):
            answer = http.request(method, path, json={"name": "example.com"} if method == "POST" else None)
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (503, 10002), answer.text
        status = http.get("/api/v1/status").json()["result"]
    assert status["ready"] is False and "causeway.sqlite3" in status["reason"]
    assert edge.stop() == 0


def test_the_last_good_snapshot_serves_when_the_database_and_newer_ones_are_damaged(edge: Running, port: int) -> None:
    for _ in range(2):  # so that there are two newer ones
        edge.create_application(f"tcp/{free_port()}", "tcp://127.0.0.1:9")
    edge.kill()
    newest, second, _ = newest_snapshots(edge)
    newest.write_bytes(newest.read_bytes().replace(b"causeway-snapshot 1 ", b"causeway-snapshot 2 "))
    second.write_bytes(second.read_bytes()[:-100])
    for file in edge.data_dir.glob("causeway.sqlite3*"):
        file.write_bytes(b"\0\1" * 2000)

    edge.start(ready=503)

    assert ask(port) == b"hello"
    told = edge.status()["edges"][0]["rejected_snapshots"]
    assert len(told) == 2, told
    assert newest.name in told[0] and "format" in told[0]
    assert second.name in told[1]


def test_sigterm_closes_ports_lets_connections_end_and_exits_0(edge: Running, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        assert echoes(connection)
        assert edge.program
        edge.program.send(signal.SIGTERM)

        def refuses() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(refuses)
        eventually(lambda: edge.readiness().status_code == 503)
        assert echoes(connection)
    assert edge.program.wait(5) == 0


def test_a_second_sigterm_cuts_what_is_left_and_exits_0(edge: Running, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        assert echoes(connection)
        assert edge.program
        edge.program.send(signal.SIGTERM)
        eventually(lambda: "draining" in edge.output)
        edge.program.send(signal.SIGTERM)
        assert edge.program.wait(5) == 0
        connection.settimeout(1)
        with pytest.raises(ConnectionResetError):
            assert connection.recv(1) == b"", "it is still open"
            raise AssertionError("the client was told of a normal end")


@pytest.fixture
def api_taken(make_edge: Callable[..., Running]) -> Iterator[Running]:
    edge = make_edge()
    with socket.create_server(("127.0.0.1", edge.api_port)):
        yield edge


def test_a_taken_api_port_is_a_clear_error(api_taken: Running) -> None:
    assert api_taken.launch().wait() == 1
    assert f"127.0.0.1:{api_taken.api_port}" in api_taken.output and "--api" in api_taken.output
    assert "Traceback" not in api_taken.output


def test_a_second_process_on_the_same_data_is_a_clear_error(
    edge: Running, port: int, make_edge: Callable[..., Running]
) -> None:
    second = make_edge()  # the same data directory, another port of the API
    assert second.launch().wait() == 1
    assert str(edge.data_dir) in second.output and "--data-dir" in second.output
    assert "Traceback" not in second.output
    assert ask(port) == b"hello"
