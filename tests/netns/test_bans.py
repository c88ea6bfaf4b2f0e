"""Who tries to log in again and again is turned away, keeps what it had open, and is told once; by both carriers."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.carried import EDGE, ORIGIN, Middle
from support.echo import echoes, start_echo
from support.namespaces import Namespaces
from support.program import Programs

ORIGIN_PORT = 9000


@pytest.fixture
def middle(namespaces: Namespaces, programs: Programs, tmp_path: Path) -> Iterator[Middle]:
    made = Middle(namespaces, programs, tmp_path / "data", "--guard", "off")  # else SYNs are dropped before both
    made.edge.start()
    start_echo(programs, ORIGIN[4], ORIGIN_PORT, inside=made.origin)
    yield made
    made.edge.close()
    assert made.edge.program
    made.edge.program.end()
    made.flush()


def tries(port: int, per_s: int, seconds: float) -> int:
    """How many of the connections are served until one is not."""
    end, served = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            with socket.create_connection((EDGE[4], port), timeout=5) as connection:
                assert echoes(connection, b"password")
        except OSError:
            break
        served += 1
        time.sleep(1 / per_s)
    return served


@pytest.mark.parametrize("carrier", ["engine", "kernel"])
def test_who_is_banned_keeps_what_it_had_open_and_no_try_is_on_record_twice(middle: Middle, carrier: str) -> None:
    app = middle.edge.create_application("tcp/22", f"tcp://{ORIGIN[4]}:{ORIGIN_PORT}", x_causeway={"carrier": carrier})
    with ExitStack() as stack, middle.client:
        held = [stack.enter_context(socket.create_connection((EDGE[4], 22), timeout=5)) for _ in range(20)]
        assert all(echoes(connection) for connection in held)
        served = tries(22, per_s=40, seconds=10)
        assert 30 <= served < 400
        for _ in range(20):
            assert tries(22, per_s=40, seconds=0.1) <= 4  # the kernel's are cut when they are up
        assert all(echoes(connection) for connection in held)
    banned = middle.edge.event(app, cause="brute_force_banned")
    assert (banned["kind"], banned["status"]) == ("clientFiltered", 403)
    over = [event["client"] for event in middle.edge.events(app) if event["kind"] in ("disconnect", "clientFiltered")]
    assert len(over) == len(set(over))


def test_where_nobody_logs_in_short_connections_are_served(middle: Middle) -> None:
    middle.edge.create_application("tcp/6379", f"tcp://{ORIGIN[4]}:{ORIGIN_PORT}")
    with middle.client:
        assert tries(6379, per_s=100, seconds=6) > 200
    assert middle.edge.status()["edges"][0]["detections"] == []
