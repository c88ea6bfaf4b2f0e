"""A PoP that nobody reaches but its users: it serves on, and is current within seconds of the line's return."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.patience import eventually
from support.program import need

from causeway.lab import Lab

pytestmark = pytest.mark.alone

CUT_S = float(os.environ.get("CAUSEWAY_TEST_CUT_S", "20"))  # 1,800 for the full proof
CURRENT_S = 5.0
PORT, NEW_PORT = 7000, 7001
EVERY_S = 0.05

WORLD = """
[network]
control = "ams"
flags = ["--rollout-bake-s", "1"]
[nodes.ams]
kind = "pop"
[nodes.fra]
kind = "pop"
[nodes.user]
kind = "client"
[nodes.game]
kind = "origin"
[defaults]
delay_ms = 5
[[links]]
between = ["ams", "fra"]
[[links]]
between = ["user", "fra"]
[[links]]
between = ["fra", "game"]
[[links]]
between = ["ams", "game"]
"""


class User:
    """Connects to the PoP that is cut off, again and again, and keeps one connection all the time."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.address = lab.world.node("fra").address
        self.asked, self.failures = 0, list[str]()

    def ask(self, port: int = PORT) -> None:
        with self._lab.inside("user"), socket.create_connection((self.address, port), timeout=5) as connection:
            echo(connection)

    @property
    def is_served_anew(self) -> bool:
        self.ask(NEW_PORT)
        return True

    def keep_asking(self, is_over: threading.Event) -> None:
        with self._lab.inside("user"), socket.create_connection((self.address, PORT), timeout=5) as held:
            while not is_over.wait(EVERY_S):
                self.asked += 1
                try:
                    self.ask()
                    echo(held)
                except (OSError, AssertionError) as error:
                    self.failures.append(repr(error))


def echo(connection: socket.socket) -> None:
    connection.sendall(b"x")
    assert connection.recv(1) == b"x"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    need("ip", "nsenter", "nats-server")
    if os.geteuid() or not Path("/dev/net/tun").exists():
        pytest.skip("a lab needs root and /dev/net/tun")
    with Lab.up(WORLD, tmp_path / "lab", f"cut-{os.getpid()}") as made:
        yield made


def command(lab: Lab, *words: str) -> str:
    done = lab.run("ams", "causeway", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def create(lab: Lab, host: str, port: int) -> None:
    origin = f"{lab.world.node('game').address}:7"
    command(lab, "apps", "create", "--dns", host, "--protocol", f"tcp/{port}", "--origin", origin)


def test_it_loses_nothing_while_it_is_cut_off_and_serves_what_was_changed_once_it_is_not(lab: Lab) -> None:
    user, is_over = User(lab), threading.Event()
    command(lab, "zones", "create", "example.net")
    create(lab, "game.example.net", PORT)
    eventually(lambda: user.ask() is None, 20)
    asking = threading.Thread(target=user.keep_asking, args=(is_over,))
    asking.start()
    try:
        lab.fail("ams", "fra")
        cut_s = time.monotonic()
        eventually(lambda: _is_silent(lab), 30, every_s=0.2)
        create(lab, "late.example.net", NEW_PORT)
        time.sleep(max(0.0, CUT_S - (time.monotonic() - cut_s)))  # what is tested takes its time
        with pytest.raises(OSError):
            user.ask(NEW_PORT)
        lab.heal("ams", "fra")
        healed_s = time.monotonic()
        eventually(lambda: user.is_served_anew, 4 * CURRENT_S)
        current_s = time.monotonic() - healed_s
    finally:
        is_over.set()
        asking.join()
    print(f"cut off for {healed_s - cut_s:.0f} s: {user.asked} connections, current {current_s:.1f} s after it")
    assert user.failures == []
    assert user.asked > CUT_S
    assert current_s <= CURRENT_S


def _is_silent(lab: Lab) -> bool:
    edges = json.loads(command(lab, "status", "-o", "json"))["edges"]
    return any(edge["name"] == "fra" and edge["remote"]["is_silent"] for edge in edges)
