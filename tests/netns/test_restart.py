"""Restarts that nobody notices, and processes that die or hang: the supervisor of `causeway up`, under load."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.echo import ask, echoes, start_echo
from support.edge import CAUSEWAY, Running, capability
from support.namespaces import Namespace, Namespaces
from support.patience import eventually
from support.ports import free_port
from support.program import Programs, environment

RESTARTS = int(os.environ.get("CAUSEWAY_TEST_RESTARTS", "10"))  # 100 for the full proof
RATE, FLOWS, SESSIONS = 500, 500, 200
HOLD = Path(__file__).parents[1] / "support" / "hold.py"
ORIGIN = 9000


class Upgrade:
    """`causeway upgrade`, as it ends."""

    def __init__(self, edge: Running) -> None:
        self._process = subprocess.Popen(
            [CAUSEWAY, "upgrade", "--data-dir", edge.data_dir], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment(), text=True,
        )  # fmt: skip

    def wait(self, within_s: float = 60) -> tuple[int, str]:
        said, _ = self._process.communicate(timeout=within_s)
        return self._process.returncode, said


def upgrade(edge: Running) -> str:
    status, said = Upgrade(edge).wait()
    assert status == 0, said
    return said


@pytest.fixture
def edge(make_edge: Callable[..., Running]) -> Running:
    return make_edge("--drain-s", "5").start()


@pytest.fixture
def port(edge: Running, programs: Programs) -> int:
    chosen = free_port()
    edge.create_application(f"tcp/{chosen}", f"tcp://127.0.0.1:{start_echo(programs)}")
    return chosen


@pytest.fixture
def world(namespaces: Namespaces) -> Iterator[Namespace]:
    yield namespaces.make()


class Load:
    """The load of `hold.py`, from its first connection to its report."""

    def __init__(self, inside: Namespace, tcp: str, udp: str, rate: int = RATE) -> None:
        command = [sys.executable, HOLD, "load", "--tcp", tcp, "--udp", udp, "--rate", str(rate)]
        amounts = ["--flows", str(FLOWS), "--sessions", str(SESSIONS)]
        with inside:
            self._process = subprocess.Popen(
                [*command, *amounts], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
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


@pytest.mark.alone
@pytest.mark.parametrize(
    ("ports", "origins"), [("20000", "9000"), ("20000-20019", "9000-9019")], ids=["bound", "range"]
)
def test_restarts_under_load_that_nobody_notices(
    make_edge: Callable[..., Running], programs: Programs, world: Namespace, ports: str, origins: str
) -> None:
    programs.start(sys.executable, HOLD, "origin", origins, inside=world)
    is_range = "-" in ports
    dispatch = ["--dispatch", "on"] if is_range and capability("sk_lookup")["available"] else []
    edge = make_edge("--drain-s", "3600", "--allow-loopback-origins", *dispatch, inside=world).start()
    for protocol in ("tcp", "udp"):
        edge.create_application(f"{protocol}/{ports}", f"{protocol}://127.0.0.1:{origins}")
    assert edge.program
    restarts = max(RESTARTS // 3, 1) if is_range else RESTARTS
    load = Load(world, ports, ports)
    try:
        for number in range(restarts):
            before = edge.serving_pid
            if number % 2:
                edge.program.send(signal.SIGHUP)
                eventually(lambda before=before: edge.serving_pid != before, 60)
                eventually(lambda: edge.readiness().status_code == 200, 30)
            else:
                upgrade(edge)
            assert edge.serving_pid != before
        time.sleep(1)
        seen = load.end()
    finally:
        load.kill()
    took_ms = [float(line.split("handed over in ")[1].split()[0]) for line in edge.output.splitlines()
               if "handed over in" in line]  # fmt: skip
    print(f"{restarts} restarts, {seen}, handed over in {took_ms} ms")
    assert seen["short"] > RATE and seen["long"] == FLOWS and seen["sessions"] == SESSIONS
    for trouble in ("short_failed", "long_cut", "udp_port_changed", "udp_refused", "udp_lost"):
        assert not seen.get(trouble), seen
    counted = edge.status()["edges"][0]["totals"]["connections_total"]
    assert counted > 0.9 * seen["short"], "counts go on, but for what an old process takes in while it hands over"
    assert f"{SESSIONS} UDP session(s)" in edge.output
    assert edge.program.is_running


SABOTAGE = {
    "import": "raise SystemExit('sabotaged: the new code does not start')",
    "crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "take over": """
from causeway.edge import engine

def take_over(settings, link, identity):
    link.send(b'J{"ask":"offer","format":1}')
    link.recv(100000)
    raise OSError("sabotaged: no")

engine.take_over = take_over
""",
}


@pytest.mark.parametrize("what", ["import", "crash", "take over"])
def test_new_code_that_dies_leaves_the_old_serving(
    make_edge: Callable[..., Running], programs: Programs, tmp_path: Path, what: str
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    edge = make_edge()
    edge.environment = {"PYTHONPATH": str(code)}
    edge.start()
    port = free_port()
    edge.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    serving = edge.serving_pid
    (code / "sitecustomize.py").write_text(SABOTAGE[what])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as held:
        status, said = Upgrade(edge).wait()
        assert status == 1 and "The old one serves on" in said, said
        assert "signal 11" in said if what == "crash" else "status 1" in said or "sabotaged" in said
        assert edge.serving_pid == serving
        assert echoes(held) and ask(port) == b"hello"
    edge.create_application(f"tcp/{free_port()}", "tcp://127.0.0.1:9")  # control, too
    (code / "sitecustomize.py").unlink()
    upgrade(edge)
    assert edge.serving_pid != serving and ask(port) == b"hello"


@pytest.mark.alone
def test_after_kill_9_of_the_serving_process_it_serves_again_within_a_second(
    make_edge: Callable[..., Running], programs: Programs, world: Namespace
) -> None:
    programs.start(sys.executable, HOLD, "origin", str(ORIGIN), inside=world)
    edge = make_edge("--allow-loopback-origins", inside=world).start()
    for protocol in ("tcp", "udp"):
        edge.create_application(f"{protocol}/20000", f"{protocol}://127.0.0.1:{ORIGIN}")
    load = Load(world, "20000", "20000", rate=200)
    try:
        gone_s = []
        for _ in range(2):
            time.sleep(0.5)
            os.kill(edge.serving_pid, signal.SIGKILL)
            began_s = time.monotonic()
            with world:
                eventually(lambda: ask(20000) == b"hello", 5, every_s=0.01)
            gone_s.append(time.monotonic() - began_s)
            eventually(lambda: edge.readiness().status_code == 200, 20)
    finally:
        load.kill()
    print(f"served again after {gone_s} s")
    assert min(gone_s) < 1.0, "a process that is killed again and again waits a little longer each time"
    assert gone_s[0] < 1.0


@pytest.mark.alone
def test_a_process_that_hangs_is_replaced_within_three_seconds(edge: Running, port: int) -> None:
    serving = edge.serving_pid
    os.kill(serving, signal.SIGSTOP)
    began_s = time.monotonic()
    eventually(lambda: _ask_quickly(port), 10, every_s=0.02)
    took_s = time.monotonic() - began_s
    print(f"replaced after {took_s:.2f} s")
    assert took_s < 3.0
    eventually(lambda: edge.serving_pid != serving)
    assert "hangs" in edge.output


def _ask_quickly(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
        return echoes(connection)


@pytest.mark.alone
def test_the_api_is_never_refused_and_waits_for_less_than_a_second(edge: Running) -> None:
    done = threading.Event()
    waits_s: list[float] = []
    troubles: list[object] = []

    def poll() -> None:
        while not done.is_set():
            began_s = time.monotonic()
            try:
                with edge.client() as http:
                    code = http.get("/client/v4/accounts").status_code
                if code not in (200, 503):
                    troubles.append(code)
            except httpx.HTTPError as error:
                troubles.append(error)
            waits_s.append(time.monotonic() - began_s)

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        for _ in range(3):
            upgrade(edge)
    finally:
        done.set()
        poller.join()
    print(f"{len(waits_s)} requests, the longest took {max(waits_s):.2f} s")
    assert [t for t in troubles if not isinstance(t, httpx.RemoteProtocolError)] == []
    assert max(waits_s) < 2.0, "a second is the aim; the machine is shared"


def test_connections_stay_until_the_drain_ends(edge: Running, port: int) -> None:
    before = edge.serving_pid
    with socket.create_connection(("127.0.0.1", port), timeout=10) as held:
        assert echoes(held)
        upgrade(edge)
        began_s = time.monotonic()
        while time.monotonic() - began_s < 3.5:
            assert echoes(held), "cut before the deadline of 5 s"
            time.sleep(0.1)
        with pytest.raises(OSError):
            assert held.recv(1) == b"", "it is still open"
            raise OSError("closed")
        assert time.monotonic() - began_s < 8
    eventually(lambda: not Path(f"/proc/{before}").exists())
    eventually(lambda: f"process {before} has drained and ended" in edge.output)
    assert "1 flow(s) were cut" in edge.output


def test_upgrades_do_not_meet(edge: Running) -> None:
    first = Upgrade(edge)
    eventually(lambda: "a new process starts" in edge.output)
    status, said = Upgrade(edge).wait()
    assert (status, "under way" in said) == (1, True), said
    status, said = first.wait()
    assert status == 0, said
    assert "old  version" in said and "new  version" in said and str(edge.serving_pid) in said


def test_sigterm_during_an_upgrade_ends_everything(edge: Running, port: int) -> None:
    running = Upgrade(edge)
    eventually(lambda: "a new process starts" in edge.output)
    assert edge.program
    children = edge.children
    assert edge.stop() == 0
    status, said = running.wait()
    assert status == 1 and "stop" in said, said
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def test_sigterm_drains_every_process_and_ends_by_the_deadline(edge: Running, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as old:
        assert echoes(old)
        upgrade(edge)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as new:
            assert echoes(new)
            began_s = time.monotonic()
            assert edge.stop(within_s=20) == 0
            assert time.monotonic() - began_s < 5 + 1 + 1


def test_nothing_to_upgrade_is_exit_status_3(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        done = subprocess.run([CAUSEWAY, "upgrade", "--data-dir", folder], capture_output=True, env=environment())
        assert done.returncode == 3 and b"causeway up" in done.stderr


def test_the_way_in_is_for_the_owner_alone(edge: Running) -> None:
    mode = (edge.data_dir / "control.sock").stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    edge.stop()
    assert not (edge.data_dir / "control.sock").exists()


def test_systemd_hears_ready_when_it_serves_and_of_every_restart(
    make_edge: Callable[..., Running], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        edge = make_edge()
        edge.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "5000000"}
        edge.launch()

        def next_state(*passed_over: str) -> dict[str, str]:
            while True:
                state = dict(line.partition("=")[::2] for line in systemd.recv(4096).decode().splitlines())
                if not any(name in state for name in passed_over):
                    return state

        assert edge.program
        ready = next_state("WATCHDOG")
        assert ready["READY"] == "1" and ready["MAINPID"] == str(edge.program.pid)
        assert edge.readiness().status_code == 200, "READY=1 only when it serves"
        edge.program.send(signal.SIGHUP)
        reloading = next_state("WATCHDOG")
        assert reloading["RELOADING"] == "1" and int(reloading["MONOTONIC_USEC"]) > 0
        assert next_state("WATCHDOG")["READY"] == "1"
        assert next_state()["WATCHDOG"] == "1"
        edge.program.send(signal.SIGTERM)
        assert next_state("WATCHDOG")["STOPPING"] == "1"
        assert edge.program.wait() == 0
