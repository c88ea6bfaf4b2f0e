"""Bans outlive the process that has found them: a restart, an upgrade and kill -9; by the engine, without the guard."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.crowd import ECHO, EDGE, Place, detections
from support.echo import echoes
from support.edge import Running
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs

PORT = 9000
HOST, USER = "198.19.2.3", "198.19.1.99"


@pytest.fixture
def place(namespaces: Namespaces, programs: Programs, make_edge: Callable[..., Running]) -> Iterator[Place]:
    made = Place(namespaces, programs, make_edge)
    yield made
    made.end()


def is_let_in(place: Place, source: str) -> bool:
    with place.client, socket.socket() as client:
        client.settimeout(5)
        client.bind((source, 0))
        try:
            client.connect((EDGE, PORT))
            return echoes(client)
        except (ConnectionResetError, BrokenPipeError):
            return False


def banned_s(edge: Running, app: str) -> float:
    told = edge.http.get("/api/v1/firewall/explain", params={"address": HOST}).json()["result"]["applications"]
    return next(float(one["banned_s"]) for one in told if one["id"] == app)


def flooded(place: Place) -> tuple[Running, str]:
    edge = place.edge("--guard", "off")
    app = edge.create_application(f"tcp/{PORT}", f"tcp://127.0.0.1:{ECHO}", x_causeway={"mitigation": "high"})
    users = place.users(PORT, 5, "--connection-rate", "60", "--request-rate", "200")
    place.told(place.attack(PORT, 4 * 60, 3, sources="198.19.2.0-198.19.2.3"), 20)
    place.told(users, 20)
    assert len(detections(edge, "connection_flood")) == 4
    assert (is_let_in(place, HOST), is_let_in(place, USER)) == (False, True)
    eventually((edge.data_dir / "edge" / "bans.json").exists, 3)
    return edge, app


def end(edge: Running, how: str) -> None:
    if how == "kill":
        edge.kill_all()
    else:
        assert edge.stop(40) == 0


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_who_was_banned_is_banned_by_the_next_process_for_the_rest_of_its_time(place: Place, how: str) -> None:
    edge, app = flooded(place)
    time.sleep(1.1)  # a kill must lose no more than a second
    ends_s = time.time() + banned_s(edge, app)
    end(edge, how)
    edge.start()
    assert abs(time.time() + banned_s(edge, app) - ends_s) < 3
    assert (is_let_in(place, HOST), is_let_in(place, USER)) == (False, True)
    assert edge.counters(app)["mitigation_refused_total"] >= 1


def test_an_upgrade_hands_bans_over(place: Place) -> None:
    edge, app = flooded(place)
    before = edge.serving_pid
    assert edge.program
    edge.program.send(signal.SIGHUP)
    eventually(lambda: edge.serving_pid != before, 30)
    assert (is_let_in(place, HOST), is_let_in(place, USER)) == (False, True)
    assert banned_s(edge, app) > 10


@pytest.mark.parametrize(
    "content", ["", "{", '{"format": 1, "bans": [{"application": "x"}]}', '{"format": 9, "bans": []}']
)
def test_a_broken_file_is_told_and_bans_nobody(place: Place, content: str) -> None:
    edge, _ = flooded(place)
    end(edge, "kill")
    kept = edge.data_dir / "edge" / "bans.json"
    kept.write_text(content)
    edge.start()
    assert "bans on disk were not taken up" in edge.output
    assert is_let_in(place, HOST)
    assert not kept.exists()


def test_switched_off_nothing_is_kept(place: Place) -> None:
    edge, _ = flooded(place)
    edge.result("PUT", "/api/v1/mitigation", {"enabled": False})
    eventually(lambda: is_let_in(place, HOST), 5)
    kept = edge.data_dir / "edge" / "bans.json"

    def bans() -> Any:
        return kept.read_text() if kept.exists() else ""

    eventually(lambda: HOST not in bans(), 5)
