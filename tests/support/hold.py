"""A world that must not notice a restart: an echo as origin, and clients that count all that goes wrong.

`hold.py origin PORTS [ADDRESS]` echoes TCP, and tells over UDP from which port it was asked. `hold.py load …`
connects, holds and sends until its standard input closes, then prints what it saw as one line of JSON.
"""

import argparse
import heapq
import json
import random
import selectors
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_LONG_S, _UDP_S = 1.0, 0.2  # between two words of one flow
_ANSWER_S = 5.0


def origin(ports: range, address: str = "127.0.0.1") -> None:
    listeners, datagram_sockets = set(), set()
    selector = selectors.DefaultSelector()
    for port in ports:
        listeners.add(socket.create_server((address, port), backlog=4096))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        datagrams.bind((address, port))
        datagram_sockets.add(datagrams)
    for end in listeners | datagram_sockets:
        end.setblocking(False)
        selector.register(end, selectors.EVENT_READ)
    print("listening", flush=True)
    while True:
        for key, _ in selector.select():
            end = key.fileobj
            assert isinstance(end, socket.socket)
            with suppress(BlockingIOError):
                if end in listeners:
                    while True:
                        client, _ = end.accept()
                        client.setblocking(False)
                        selector.register(client, selectors.EVENT_READ)
                elif end in datagram_sockets:
                    while True:
                        asked, asker = end.recvfrom(2048)
                        end.sendto(asked + b"|%d" % asker[1], asker)
                else:
                    try:
                        said = end.recv(65536)
                    except BlockingIOError:
                        continue
                    except OSError:
                        said = b""
                    with suppress(ConnectionError):
                        end.sendall(said)
                    if not said:
                        selector.unregister(end)
                        end.close()


class Load:
    def __init__(self, ports: range, udp_ports: range, rate: int, address: str) -> None:
        self.ports, self.udp_ports, self.rate, self.address = ports, udp_ports, rate, address
        self.selector = selectors.DefaultSelector()
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.is_over = False
        self.began = time.monotonic()

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.due, (when, len(self.due) + random.getrandbits(40), what))

    def fail(self, kind: str, why: object) -> None:
        self.counts[kind] += 1
        if len(self.failures) < 20:
            self.failures.append(f"{time.monotonic() - self.began:.2f} s {kind}: {why}")

    def run(self, flows: int, sessions: int) -> None:
        for _ in range(flows):
            Long(self)
        for _ in range(sessions):
            Session(self)
        self.at(time.monotonic(), self._shorts)
        self.selector.register(sys.stdin, selectors.EVENT_READ, self._on_stdin)
        print("holding", flush=True)
        end = None
        while end is None or time.monotonic() < end:
            timeout = max(0.0, min(self.due[0][0] - time.monotonic(), 0.1)) if self.due else 0.1
            for key, _ in self.selector.select(timeout):
                key.data()
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                heapq.heappop(self.due)[2]()
            if self.is_over and end is None:
                end = now + 2.0
        print(json.dumps({**self.counts, "failures": self.failures}), flush=True)

    def _on_stdin(self) -> None:
        if not sys.stdin.buffer.raw.read(1):  # type: ignore[attr-defined]
            self.is_over = True
            self.selector.unregister(sys.stdin)

    def _shorts(self) -> None:
        """Open loop: as many as are due by the clock, however slow the answers are."""
        wanted = int((time.monotonic() - self.began) * self.rate) - self.counts["short"]
        for _ in range(min(wanted, 200)):
            if not self.is_over:
                self.counts["short"] += 1
                Short(self)
        if not self.is_over:
            self.at(time.monotonic() + 0.01, self._shorts)


class Short:
    """Connect, say a word, hear it, go away."""

    def __init__(self, load: Load) -> None:
        self.load, self.is_done, self.has_asked = load, False, False
        self.end = socket.socket()
        self.end.setblocking(False)
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.end.connect_ex((load.address, random.choice(load.ports)))
        load.selector.register(self.end, selectors.EVENT_WRITE, self.on_notice)
        load.at(time.monotonic() + _ANSWER_S, self.on_late)

    def on_notice(self) -> None:
        try:
            if not self.has_asked:
                if error := self.end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, "connect")
                self.end.send(b"word")
                self.has_asked = True
                self.load.selector.modify(self.end, selectors.EVENT_READ, self.on_notice)
                return
            if (heard := self.end.recv(64)) != b"word":
                raise OSError(f"heard {heard!r}")
        except OSError as error:
            self.load.fail("short_failed", error)
        self.close()

    def on_late(self) -> None:
        if not self.is_done:
            self.load.fail("short_failed", "no answer in time")
            self.close()

    def close(self) -> None:
        self.is_done = True
        self.load.selector.unregister(self.end)
        self.end.close()


class Long:
    """A connection that lives as long as the load, and says a word now and then."""

    def __init__(self, load: Load) -> None:
        self.load, self.said, self.heard = load, 0, 0
        self.end = socket.create_connection((load.address, random.choice(load.ports)), timeout=10)
        self.end.setblocking(False)
        load.selector.register(self.end, selectors.EVENT_READ, self.on_notice)
        load.counts["long"] += 1
        load.at(time.monotonic() + random.random() * _LONG_S, self.speak)

    def speak(self) -> None:
        if self.load.is_over:
            return
        try:
            if self.said - self.heard > 8 * _ANSWER_S:
                raise OSError("no answer in time")
            self.said += self.end.send(b"longword")
        except OSError as error:
            self.cut(error)
        else:
            self.load.at(time.monotonic() + _LONG_S, self.speak)

    def on_notice(self) -> None:
        try:
            part = self.end.recv(4096)
        except OSError as error:
            return self.cut(error)
        if not part:
            return self.cut("closed")
        self.heard += len(part)
        return None

    def cut(self, why: object) -> None:
        with suppress(KeyError, ValueError):
            self.load.selector.unregister(self.end)
            self.end.close()
            self.load.fail("long_cut", why)


class Session:
    """A UDP client that knows from which port the origin is asked for it."""

    def __init__(self, load: Load) -> None:
        self.load, self.port, self.number = load, b"", 0
        self.waits: set[bytes] = set()
        self.end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.end.connect((load.address, random.choice(load.udp_ports)))
        self.end.setblocking(False)
        load.selector.register(self.end, selectors.EVENT_READ, self.on_notice)
        load.counts["sessions"] += 1
        load.counts["udp_lost"] += 0
        load.at(time.monotonic() + random.random() * _UDP_S, self.speak)

    def speak(self) -> None:
        if self.load.is_over:
            return
        self.number += 1
        word = b"%d" % self.number
        try:
            self.end.send(word)
        except OSError as error:
            self.load.fail("udp_refused", error)
        self.load.counts["udp_sent"] += 1
        self.load.counts["udp_lost"] += 1  # until it is answered
        self.waits.add(word)
        self.load.at(time.monotonic() + _UDP_S, self.speak)

    def on_notice(self) -> None:
        try:
            word, _, port = self.end.recv(2048).partition(b"|")
        except OSError as error:
            return self.load.fail("udp_refused", error)
        if word in self.waits:
            self.waits.remove(word)
            self.load.counts["udp_lost"] -= 1
        if self.port and port != self.port:
            self.load.fail("udp_port_changed", f"{self.port!r} to {port!r}")
        self.port = port
        return None


def ports(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    if sys.argv[1] == "origin":
        origin(ports(sys.argv[2]), *sys.argv[3:4])
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("--tcp", type=ports, required=True)
    parser.add_argument("--udp", type=ports, required=True)
    parser.add_argument("--rate", type=int, required=True)
    parser.add_argument("--flows", type=int, required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--at", default="127.0.0.1")
    told = parser.parse_args()
    Load(told.tcp, told.udp, told.rate, told.at).run(told.flows, told.sessions)
