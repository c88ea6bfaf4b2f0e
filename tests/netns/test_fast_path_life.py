"""Flows in the kernel outlive causeway: killed, started again, upgraded, under load, and nobody notices."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import echo
from support.carried import EDGE, ORIGIN, Middle
from support.echo import echoes, start_echo
from support.edge import CAUSEWAY
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs, environment

KILLS = int(os.environ.get("CAUSEWAY_TEST_RESTARTS", "3"))  # 100 for the full proof
RATE, FLOWS, SESSIONS = 500, 500, 200
HOLD = Path(__file__).parents[1] / "support" / "hold.py"
PORT, ORIGIN_PORT = 20000, 9000
TROUBLE = ("short_failed", "long_cut", "udp_port_changed", "udp_refused", "udp_lost")


@pytest.fixture
def make_middle(namespaces: Namespaces, programs: Programs, tmp_path: Path) -> Iterator[Callable[..., Middle]]:
    made: list[Middle] = []

    def make(*flags: str) -> Middle:
        made.append(Middle(namespaces, programs, tmp_path / "data", *flags))
        return made[-1]

    yield make
    for middle in made:
        middle.edge.close()
        if middle.edge.program:
            middle.edge.program.end()
        middle.flush()


@pytest.fixture
def loaded(make_middle: Callable[..., Middle]) -> Middle:
    """An edge with one application of TCP and one of UDP for the load of hold.py."""
    middle = make_middle("--drain-s", "3600")
    middle.edge.start()
    middle.programs.start(sys.executable, HOLD, "origin", str(ORIGIN_PORT), ORIGIN[4], inside=middle.origin)
    for protocol in ("tcp", "udp"):
        middle.edge.create_application(f"{protocol}/{PORT}", f"{protocol}://{ORIGIN[4]}:{ORIGIN_PORT}")
    return middle


class Load:
    """The load of `hold.py`, from its first connection to its report."""

    def __init__(self, middle: Middle) -> None:
        amounts = ["--rate", str(RATE), "--flows", str(FLOWS), "--sessions", str(SESSIONS)]
        command = [sys.executable, HOLD, "load", "--at", EDGE[4], "--tcp", str(PORT), "--udp", str(PORT), *amounts]
        with middle.client:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        assert self._process.stdout.readline() == "holding\n"

    def end(self) -> dict[str, Any]:
        said, _ = self._process.communicate(timeout=60)
        report = json.loads(said)
        assert isinstance(report, dict)
        return report

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def kill_all(middle: Middle) -> None:
    """SIGKILL for every causeway process of this edge, all at once."""
    assert middle.edge.program
    for pid in [middle.edge.program.pid, *middle.edge.children]:
        os.kill(pid, signal.SIGKILL)
    middle.edge.program.wait()


def check(seen: dict[str, Any]) -> None:
    print(seen)
    assert seen["short"] > RATE and seen["long"] == FLOWS and seen["sessions"] == SESSIONS
    for trouble in TROUBLE:
        assert not seen.get(trouble), seen


@pytest.mark.alone
def test_kill_9_of_every_process_under_load_breaks_nothing_and_loses_no_record(loaded: Middle) -> None:
    load = Load(loaded)
    try:
        for _ in range(KILLS):
            time.sleep(1)
            kill_all(loaded)
            time.sleep(2)  # nobody is there
            loaded.edge.start()
        time.sleep(1)
        seen = load.end()
    finally:
        load.kill()
    check(seen)
    made = seen["short"] + FLOWS
    tcp = next(a for a in loaded.edge.result("GET", "/api/v1/applications") if a["protocol"] == f"tcp/{PORT}")

    def all_are_counted() -> bool:
        counters = loaded.edge.counters(tcp["id"])
        assert (counters["connections_total"], counters["connections_open"]) == (made, 0)
        # Each short one says "word"; long ones say eight bytes a time, and all of it comes back.
        assert counters["bytes_ingress"] == counters["bytes_egress"] >= 4 * seen["short"] + 8 * FLOWS
        return True

    eventually(all_are_counted, 10)


def test_records_of_what_happened_while_nobody_was_there(loaded: Middle) -> None:
    tcp = next(a for a in loaded.edge.result("GET", "/api/v1/applications") if a["protocol"] == f"tcp/{PORT}")
    with loaded.client:
        held = socket.create_connection((EDGE[4], PORT), timeout=5)
    assert echoes(held)
    loaded.edge.event(tcp["id"], kind="connect")
    kill_all(loaded)
    with loaded.client:
        for _ in range(20):
            with socket.create_connection((EDGE[4], PORT), timeout=5) as connection:
                assert echoes(connection, b"nobody sees it")
        later = socket.create_connection((EDGE[4], PORT), timeout=5)
    held.close()
    loaded.edge.start()

    def told(kind: str) -> list[dict[str, Any]]:
        return [event for event in loaded.edge.events(tcp["id"]) if event["kind"] == kind]

    eventually(lambda: len(told("disconnect")) >= 21, 10)
    assert echoes(later)
    later.close()
    eventually(lambda: len(told("disconnect")) >= 22, 10)
    time.sleep(3)
    ends = told("disconnect")
    assert sorted(end["client_bytes"] for end in ends) == [10, 10] + 20 * [14]
    assert len({end["client"] for end in ends}) == 22, "one was told twice"
    assert len(told("connect")) == 21, "all but the first, which the killed process has told"


@pytest.mark.alone
def test_upgrades_under_load_that_nobody_notices(loaded: Middle) -> None:
    load = Load(loaded)
    try:
        for _ in range(KILLS):
            before = loaded.edge.serving_pid
            done = subprocess.run(
                [CAUSEWAY, "upgrade", "--data-dir", loaded.edge.data_dir],
                capture_output=True, text=True, env=environment(), timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert loaded.edge.serving_pid != before
        time.sleep(1)
        seen = load.end()
    finally:
        load.kill()
    check(seen)
    tcp = next(a for a in loaded.edge.result("GET", "/api/v1/applications") if a["protocol"] == f"tcp/{PORT}")
    made = seen["short"] + FLOWS
    eventually(lambda: loaded.edge.counters(tcp["id"])["connections_total"] == made, 10)
    eventually(lambda: loaded.edge.counters(tcp["id"])["connections_open"] == 0, 10)


@pytest.mark.alone
def test_a_restart_under_load_breaks_nothing(loaded: Middle) -> None:
    load = Load(loaded)
    try:
        for _ in range(KILLS):
            assert loaded.edge.program
            loaded.edge.program.send(signal.SIGTERM)
            assert loaded.edge.program.wait(10) == 0
            time.sleep(1)  # nobody is there
            loaded.edge.start()
        seen = load.end()
    finally:
        load.kill()
    check(seen)
    tcp = next(a for a in loaded.edge.result("GET", "/api/v1/applications") if a["protocol"] == f"tcp/{PORT}")
    made = seen["short"] + FLOWS
    eventually(lambda: loaded.edge.counters(tcp["id"])["connections_total"] == made, 10)
    eventually(lambda: loaded.edge.counters(tcp["id"])["connections_open"] == 0, 10)


def test_a_stop_says_what_goes_on_in_the_kernel(make_middle: Callable[..., Middle]) -> None:
    middle = make_middle("--fast-path-flows", "2048")
    middle.edge.start()
    start_echo(middle.programs, ORIGIN[4], 7000, inside=middle.origin)
    middle.edge.create_application("tcp/9000", f"tcp://{ORIGIN[4]}:7000")
    with middle.client:
        held = socket.create_connection((EDGE[4], 9000), timeout=5)
    assert echoes(held)
    assert middle.path()["capacity"] == 2048 + 2048 // 4
    assert middle.path()["hook"] in ("tcx", "clsact")
    with held:
        told = middle.down()
        assert "goes on" in told and "causeway down --flush" in told
        assert "carrying 1 application(s) and 1 flow(s)" in middle.edge.output
        assert echoes(held)
        with middle.client:
            assert echo.ask(9000, EDGE[4]) == b"hello"
    assert "pinned objects" in middle.flush()
    assert "nothing was left" in middle.flush()
    with middle.client, pytest.raises(ConnectionRefusedError):
        socket.create_connection((EDGE[4], 9000), timeout=1)


def test_a_flush_ends_what_a_killed_edge_has_left(make_middle: Callable[..., Middle]) -> None:
    middle = make_middle()
    middle.edge.start()
    start_echo(middle.programs, ORIGIN[4], 7000, inside=middle.origin)
    middle.edge.create_application("tcp/9000", f"tcp://{ORIGIN[4]}:7000")
    kill_all(middle)
    with middle.client:
        assert echo.ask(9000, EDGE[4]) == b"hello"
    assert "pinned objects" in middle.flush()
    with middle.client, pytest.raises(ConnectionRefusedError):
        socket.create_connection((EDGE[4], 9000), timeout=1)


def test_without_the_fast_path_the_engine_takes_over_what_was_carried(make_middle: Callable[..., Middle]) -> None:
    middle = make_middle()
    middle.edge.start()
    start_echo(middle.programs, ORIGIN[4], 7000, inside=middle.origin)
    application = middle.edge.create_application("tcp/9000", f"tcp://{ORIGIN[4]}:7000")
    assert "kernel" in middle.application(application)["carrier"]
    kill_all(middle)
    middle.edge.flags = (*middle.edge.flags, "--fast-path", "off")
    middle.edge.start()
    with middle.client:
        assert echo.ask(9000, EDGE[4]) == b"hello"
    assert middle.application(application)["carrier"] == "engine"
    assert middle.path() == {**middle.path(), "is_on": False, "missing": "switched off (--fast-path off)"}
    assert middle.edge.event(application, kind="disconnect")["client_bytes"] == 5
