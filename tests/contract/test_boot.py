"""Starting, stopping, crashing: what the process says, what it keeps, what goes on when the database does not."""

import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from running import ZONE, Server, ask, eventually, free_port, upper_origin
from support.meanwhile import again_and_again

Alone = Callable[..., Server]


def test_the_first_start_says_where_everything_is_and_what_to_type(alone: Alone) -> None:
    server = alone().start()
    data = server.folder / "causeway-data"
    for text in (
        f"http://127.0.0.1:{server.port}/client/v4",
        f"http://127.0.0.1:{server.port}/api/docs",
        str(data / "token"),
        f"export CAUSEWAY_API_TOKEN=$(cat {data / 'token'})",
        f"export CAUSEWAY_URL=http://127.0.0.1:{server.port}",
        "causeway zones create example.net",
        "causeway apps create --dns ssh.example.net --protocol tcp/2222 --origin 127.0.0.1:22",
    ):
        assert text in server.log
    assert server.token not in server.log
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in data.iterdir() if path.is_file()}.items() >= {
        "token": "0o600",
        "causeway.sqlite3": "0o600",
    }.items()
    with server.http() as http:
        assert len(http.get("/client/v4/accounts").json()["result"]) == 1
        assert http.get("/client/v4/zones").json()["result"] == []
        account = http.get("/client/v4/accounts").json()["result"][0]["id"]
        http.post("/client/v4/zones", json={"name": ZONE, "account": {"id": account}})
    token = server.token
    assert server.stop() == 0
    (server.folder / "log").unlink()
    server.start()
    assert server.token == token
    assert "causeway zones create" not in server.log, "the first run only"


def test_two_processes_do_not_share_a_data_directory(alone: Alone) -> None:
    first = alone().start()
    second = alone()
    assert second.launch().wait(timeout=30) == 1
    assert "is in use by another causeway" in second.log
    assert first.status_of("/readyz") == 200


def test_a_taken_api_port_is_an_error_before_anything_starts(alone: Alone) -> None:
    server = alone()
    with socket.create_server(("127.0.0.1", server.port)):
        assert server.launch().wait(timeout=30) == 1
    assert f"the API cannot listen on 127.0.0.1:{server.port}" in server.log
    assert "--api" in server.log
    assert not (server.folder / "causeway-data/edge").exists()


def test_help_starts_nothing(alone: Alone) -> None:
    server = alone("--help")
    assert server.launch().wait(timeout=30) == 0
    for flag in (
        "--data-dir",
        "--api",
        "--edge-ip",
        "--workers",
        "--drain-s",
        "--allow-loopback-origins",
        "--deny-origins",
    ):
        assert flag in server.log
    assert not (server.folder / "causeway-data").exists()


FLAGS = [
    (["--api", "nonsense"], 2),
    (["--edge-ip", "example.net"], 2),
    (["--edge-ip", "0.0.0.0", "--edge-ip", "127.0.0.1"], 2),
    (["--deny-origins", "10.0.0.1/8"], 2),
    (["--resolver", "dns.example.net"], 2),
    (["--workers", "-1"], 2),
    (["--drain-s", "-1"], 2),
    (["--drain-s", "86401"], 2),
    (["--frobnicate"], 2),
    (["--data-dir", "/proc/nothing"], 1),
]


@pytest.mark.parametrize(("flags", "status"), FLAGS)
def test_wrong_flags_are_refused_with_a_sentence(alone: Alone, flags: list[str], status: int) -> None:
    server = alone(*flags)
    assert server.launch().wait(timeout=30) == status
    assert "causeway up: " in server.log
    assert "Traceback" not in server.log


def test_a_token_file_that_holds_none_is_an_error(alone: Alone) -> None:
    server = alone()
    (server.folder / "causeway-data").mkdir()
    (server.folder / "causeway-data/token").write_text("\n")
    assert server.launch().wait(timeout=30) == 1
    assert "delete it to get a new one" in server.log


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_applications_outlive_the_process(alone: Alone, number: signal.Signals) -> None:
    server = alone().start()
    api = server.api()
    with upper_origin() as origin:
        made = [
            api.create(protocol=f"tcp/{free_port()}", origin_direct=[f"tcp://127.0.0.1:{origin}"]) for _ in range(5)
        ]
        before = api.state()
        assert server.stop(number) == (0 if number is signal.SIGTERM else -9)
        began = time.monotonic()
        server.start()
        assert time.monotonic() - began < 10
        for application in made:
            assert ask(int(application["protocol"].partition("/")[2])) == b"HELLO\n"
        assert api.state() == before
        api.create()


BROKEN = ["garbage", "directory", "newer", "row"]


def break_database(path: Path, how: str) -> None:
    changes = {
        "newer": "update alembic_version set version_num = '9999'",
        "row": "update applications set body = '{}'",
    }
    if how in changes:
        with sqlite3.connect(path) as database:
            database.execute(changes[how])
        database.close()
        return
    for part in path.parent.glob("causeway.sqlite3*"):
        part.unlink()
    if how == "directory":
        path.mkdir()
    else:
        path.write_bytes(os.urandom(64 * 1024))


@pytest.mark.parametrize("how", BROKEN)
def test_10002_without_a_database_the_edge_serves_and_the_api_says_why(alone: Alone, how: str) -> None:
    server = alone().start()
    api = server.api()
    path = server.folder / "causeway-data/causeway.sqlite3"
    with upper_origin() as origin:
        port = free_port()
        made = api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        assert server.stop() == 0
        good = shutil.copyfile(path, server.folder / "good")
        break_database(path, how)
        server.start(status=503)
        assert ask(port) == b"HELLO\n"
        reason = api.http.get("/readyz").json()["reason"]
        for verb, url in (("GET", "/client/v4/zones"), ("POST", api.apps), ("DELETE", f"{api.apps}/{made['id']}")):
            answer = api.http.request(verb, url, json=api.body() if verb == "POST" else None)
            [error] = answer.json()["errors"]
            assert (answer.status_code, error["code"], error["side"]) == (503, 10002, "edge")
            assert "causeway.sqlite3" in error["message"]
        assert "newer than this program" in reason if how == "newer" else "causeway.sqlite3" in reason
        assert api.http.get("/healthz").status_code == 200
        assert api.http.get("/api/v1/status").json()["result"]["ready"] is False

        path.rmdir() if how == "directory" else path.unlink()
        for part in path.parent.glob("causeway.sqlite3-*"):
            part.unlink()
        shutil.copyfile(good, path)
        eventually(lambda: server.status_of("/readyz") == 200, "control comes back by itself")
        assert api.http.get(f"{api.apps}/{made['id']}").json()["result"] == made
        assert ask(port) == b"HELLO\n"


def test_10002_a_database_that_fails_under_way_changes_nothing(alone: Alone) -> None:
    server = alone().start()
    api = server.api()
    with upper_origin() as origin:
        port, other = free_port(), free_port()
        api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        before = api.state()
        hoarder = sqlite3.connect(server.folder / "causeway-data/causeway.sqlite3", isolation_level=None)
        hoarder.execute("BEGIN IMMEDIATE")  # as a backup tool that hangs would do
        answer = api.http.post(api.apps, json=api.body(protocol=f"tcp/{other}"))
        [error] = answer.json()["errors"]
        assert (answer.status_code, error["code"]) == (503, 10002)
        assert "locked" in error["message"]
        hoarder.execute("ROLLBACK")
        hoarder.close()
        assert api.state() == before
        assert ask(port) == b"HELLO\n"
        with pytest.raises(ConnectionRefusedError):
            ask(other)
        api.create(protocol=f"tcp/{other}")


def test_a_port_that_was_taken_at_boot_is_had_when_it_is_free(alone: Alone) -> None:
    server = alone().start()
    api = server.api()
    with upper_origin() as origin:
        port, free = free_port(), free_port()
        for wanted in (port, free):
            api.create(protocol=f"tcp/{wanted}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        assert server.stop() == 0
        with socket.create_server(("127.0.0.1", port)):
            server.start()
            assert ask(free) == b"HELLO\n", "the others serve"
            [refused] = api.http.get("/api/v1/status").json()["result"]["edges"][0]["refused"]
            assert refused["ports"] == {"first": port, "last": port}
            assert refused["reason"]["code"] == "port_in_use"
            states = api.http.get("/api/v1/applications").json()["result"]
            assert [s["listeners"][0]["state"] for s in states] == ["refused", "running"]
        eventually(lambda: api.http.get("/api/v1/status").json()["result"]["edges"][0]["refused"] == [], "it is had")
        assert ask(port) == b"HELLO\n"


def test_an_address_that_went_away_leaves_its_application_waiting(alone: Alone) -> None:
    both = ("--edge-ip", "127.0.0.1", "--edge-ip", "127.0.0.2")
    server = alone(*both).start()
    api = server.api()
    port = free_port()
    static = {"type": "static", "ips": ["127.0.0.2"]}
    first = api.create(protocol=f"tcp/{port}", dns={"type": "ADDRESS", "name": f"s.{ZONE}"}, edge_ips=static)
    assert server.stop() == 0
    server.flags = ("--edge-ip", "127.0.0.1")
    server.start()
    [state] = api.http.get("/api/v1/applications").json()["result"]
    assert "--edge-ip" in state["unserved"]
    second = api.create(protocol=f"tcp/{port}")
    assert server.stop() == 0
    server.flags = both
    server.start()
    states = {state["id"]: state for state in api.http.get("/api/v1/applications").json()["result"]}
    assert states[first["id"]]["unserved"] is None, "who came first keeps the port"
    assert first["id"] in states[second["id"]]["unserved"]
    api.http.delete(f"{api.apps}/{first['id']}")
    [state] = api.http.get("/api/v1/applications").json()["result"]
    assert state["unserved"] is None


def test_a_drain_waits_for_connections_and_a_second_signal_does_not(alone: Alone) -> None:
    server = alone().start()
    api = server.api()
    with upper_origin() as origin:
        port = free_port()
        api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as held:
            assert server.process
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: server.status_of("/readyz") == 503, "not ready while it drains")
            held.sendall(b"still here\n")
            assert held.recv(100) == b"STILL HERE\n"
            with pytest.raises(ConnectionRefusedError):
                ask(port)
            answer = api.http.post(api.apps, json=api.body())
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (503, 10002)
            assert server.process.poll() is None
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 5
    assert "1 flow(s) were cut" in server.log


def test_a_drain_ends_with_the_last_connection_even_if_somebody_tails(alone: Alone) -> None:
    server = alone().start()
    api = server.api()
    with api.http.stream("GET", "/api/v1/tail", params={"follow": "true"}) as tail:
        lines = tail.iter_lines()
        next(lines)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
        assert list(lines) == []
    assert "Traceback" not in server.log


def test_sighup_goes_on_as_a_new_process_and_control_with_it(alone: Alone) -> None:
    server = alone().start()
    api = server.api()
    with upper_origin() as origin:
        port = free_port()
        made = api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        assert server.process
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.log.count(" serves, version ") == 2, "another process serves")
        assert ask(port) == b"HELLO\n"
    eventually(lambda: server.status_of("/readyz") == 200, "it is ready")
    http = server.http()
    server.clients.append(http)
    assert http.get(f"{api.apps}/{made['id']}").json()["result"]["id"] == made["id"]
    assert http.delete(f"{api.apps}/{made['id']}").status_code == 200
    assert server.stop() == 0


def test_another_host_header_changes_nothing(running: Server) -> None:
    with running.http() as http:
        plain = http.get("/client/v4/zones").json()
        assert http.get("/client/v4/zones", headers={"Host": "evil.example"}).json() == plain
        assert "evil.example" not in http.get("/api/docs", headers={"Host": "evil.example"}).text


def test_a_change_that_kills_every_process_that_serves_it_is_served_no_more_and_can_be_undone(alone: Alone) -> None:
    server, deadly = alone().start(), free_port()
    with upper_origin() as origin:
        api, kept = server.api(), free_port()
        api.create(protocol=f"tcp/{kept}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        killed = 0

        def is_deadly() -> None:
            """As a fault of the engine that this application sets off."""
            nonlocal killed
            with suppress(OSError):
                if ask(deadly) == b"HELLO\n":
                    pid = server.serving_pid
                    os.kill(pid, signal.SIGSEGV)
                    killed += 1
                    eventually(lambda: not Path(f"/proc/{pid}").exists(), "it is gone")

        made = api.create(protocol=f"tcp/{deadly}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        with again_and_again(is_deadly):
            eventually(lambda: killed == 2, "two have died of it")
            eventually(lambda: is_served(kept), "what was there before is served")
            eventually(lambda: server.status_of("/readyz") == 503, "the API answers, and not that all is well")
            assert "two processes in a row died" in api.http.get("/readyz").json()["reason"]
            api.http.delete(f"{api.apps}/{made['id']}")
            eventually(lambda: server.status_of("/readyz") == 200, "undone")
        assert killed == 2
        assert is_served(kept)


def is_served(port: int) -> bool:
    with suppress(OSError):
        return ask(port) == b"HELLO\n"
    return False
