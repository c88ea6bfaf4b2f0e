"""The bench's three namespaces, with floods that come by the same wire as the legitimate client.

One wire, so one queue: what is dropped because nobody has time for it is everybody's, as at a real card. And as a card
interrupts whatever runs, that queue is served before all else, by a thread on the last processor; the generator is on
the first, behind whoever wants that too. Sources are spoofed from 198.18.128.0/17, which is routed back to that wire:
answers cost what they would anywhere. There is no way out of these namespaces.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from world import World, inside, world

SPOOFED = "198.18.128.0-198.18.255.255"
REAL = "198.18.64.0/18"  # addresses that the client has: users and crowds
USERS = "198.18.64.1-198.18.64.50"
_HERE = Path(__file__).resolve().parent
_ATTACKER, _PROXY = "cwb0", "cwb1"
_GENERATOR = ("nice", "-n", "19", "taskset", "-c", "0")
_FIRST = os.sched_param(50)
_THREADS_S = 2.0


@dataclass(frozen=True, slots=True)
class Field:
    """Where it happens."""

    world: World
    mac: str  # of the proxy, on the client's wire
    flood: Path

    def attack(self, kind: str, to: str, rate: int, seconds: float, ports: int = 1) -> subprocess.Popen[str]:
        """Start a flood at `address:port`; rate in packets/s, 0: as many as there can be. It ends by itself."""
        words = [kind, "--interface", _ATTACKER, "--to-mac", self.mac, "--to", to, "--to-ports", str(ports)]
        words += ["--rate", str(rate), "--seconds", str(seconds), "--sources", SPOOFED]
        command = [*_GENERATOR, *inside(self.world.client), str(self.flood), *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def crowd(self, load: Path, words: tuple[str, ...], to: str, seconds: float) -> subprocess.Popen[str]:
        """Real connections of many sources. It ends by itself."""
        command = [*inside(self.world.client), str(load), "crowd", "--to", to, *words, "--seconds", str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def arrived(self) -> int:
        """Packets that have come in by the client's wire."""
        words = ["ip", "-n", self.world.proxy, "-s", "-j", "link", "show", _PROXY]
        told = subprocess.run(words, capture_output=True, check=True)
        packets: int = json.loads(told.stdout)[0]["stats64"]["rx"]["packets"]
        return packets

    def ceiling(self) -> int:
        """Packets per second that the generator can do here, when they are dropped at once."""
        sink = subprocess.Popen(
            [*inside(self.world.proxy), str(self.flood), "sink", "--interface", _PROXY],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert sink.stdin and sink.stdout
        try:
            assert "ready" in sink.stdout.readline()
            told, _ = self.attack("spoofed-syn", "198.18.0.10:7001", 0, 1.5).communicate()
            return int(json.loads(told)["rate"])
        finally:
            sink.stdin.close()
            sink.wait(10)


@contextmanager
def field(places: int, flood: Path) -> Iterator[Field]:
    with world(places) as made:
        # Answers to those that do not exist are taken without a word.
        _run(*inside(made.client), "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        _run(*inside(made.client), "nft", "add table ip quiet; add chain ip quiet in { type filter hook prerouting "
             "priority raw; }; add rule ip quiet in ip daddr 198.18.128.0/17 drop")  # fmt: skip
        for far in ("198.18.128.0/17", REAL):
            _run("ip", "-n", made.proxy, "route", "add", far, "via", "198.18.0.2")
        _run("ip", "-n", made.client, "route", "add", "local", REAL, "dev", "lo")
        _run(*inside(made.proxy), sys.executable, str(_HERE / "card.py"), "receives", _PROXY)
        _run(*inside(made.client), sys.executable, str(_HERE / "card.py"), "sends", _ATTACKER)
        _serve_first(made.proxy, _PROXY)
        with _passing(made.client, _ATTACKER, flood):
            yield Field(made, _mac(made.proxy, _PROXY), flood)


def _serve_first(namespace: str, device: str) -> None:
    """Threaded NAPI (kernel 5.12, Documentation/networking/napi.rst) in place of interrupts: a veth has none."""
    _run(*inside(namespace), "sh", "-c", f"echo 1 > /sys/class/net/{device}/threaded")
    until = time.monotonic() + _THREADS_S
    while not (threads := _threads(f"napi/{device}-")) and time.monotonic() < until:
        time.sleep(0.01)
    for thread in threads:
        os.sched_setscheduler(thread, os.SCHED_FIFO, _FIRST)
        os.sched_setaffinity(thread, {max(os.sched_getaffinity(0))})


def _threads(begin: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has ended
            if path.read_text().startswith(begin):
                found.append(int(path.parent.name))
    return found


@contextmanager
def _passing(namespace: str, device: str, flood: Path) -> Iterator[None]:
    """Let a veth take what its peer sends back at once (XDP_TX), as a wire does: it must have a program for that."""
    words = [*inside(namespace), str(flood), "pass", "--interface", device]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as standing:
        assert standing.stdin and standing.stdout
        try:
            assert "ready" in standing.stdout.readline()
            yield
        finally:
            standing.stdin.close()
            standing.wait(10)


def _mac(namespace: str, device: str) -> str:
    told = subprocess.run(["ip", "-n", namespace, "-j", "link", "show", device], capture_output=True, check=True)
    address: str = json.loads(told.stdout)[0]["address"]
    return address


def _run(*words: str) -> None:
    subprocess.run(words, capture_output=True, text=True, check=True)
