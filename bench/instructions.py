"""How many instructions of ours a unit of work takes, counted by callgrind: the gate that no busy machine disturbs.

An edge with one worker runs under valgrind in its own process; load and origin are this one, one unit at a time. Two
runs of different length, and their difference, leave out what start and end cost. The kernel's work is not in it.
Run it to see the figures; with --write it keeps them, in bench/instructions.json and docs/performance.md.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import markdown
import report

REPOSITORY = Path(__file__).resolve().parent.parent
STORED = REPOSITORY / "bench" / "instructions.json"
PAGE = REPOSITORY / "docs" / "performance.md"
FEW, MANY = 200, 1200
TRIES = 3  # round trips repeat to the instruction, connections to 2 %: what is ready in one turn of the loop varies
READY_S = 60
REPLY_S = 20
Address = tuple[str, int]


def cannot_count() -> str | None:
    if platform.machine() != "x86_64":
        return f"the stored counts are of x86_64, this is {platform.machine()}"
    packages = {"valgrind": "valgrind", "cargo": "a Rust toolchain"}
    missing = [package for name, package in packages.items() if not shutil.which(name)]
    return f"not installed: {', '.join(missing)}" if missing else None


def count_all() -> dict[str, int]:
    """Instructions of user space for one unit, by unit."""
    program = _build()
    return {name: _count(program, protocol, unit) for name, (protocol, unit) in UNITS.items()}


def stored() -> dict:
    return json.loads(STORED.read_text())


def _count(program: Path, protocol: str, unit: "Unit") -> int:
    found = [
        (_run(program, protocol, unit, MANY) - _run(program, protocol, unit, FEW)) / (MANY - FEW) for _ in range(TRIES)
    ]
    return round(median(found))


def _run(program: Path, protocol: str, unit: "Unit", units: int) -> int:
    with tempfile.TemporaryDirectory(prefix="causeway-callgrind-") as directory, _origin(protocol) as origin:
        edge = _free_port(protocol)
        out = Path(directory) / "out"
        # On one processor: with more, a worker spins before it sleeps, for a time and not for a count.
        words = [
            "taskset",
            "--cpu-list",
            str(min(os.sched_getaffinity(0))),
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={out}",
            "--quiet",
            str(program),
            protocol,
        ]
        pipe = subprocess.PIPE
        command = [*words, *(f"{host}:{port}" for host, port in (edge, origin.address))]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdin and process.stdout
            try:
                if "ready" not in process.stdout.readline():
                    raise SystemExit(f"instructions: the edge did not start: {process.communicate()[1][-500:]}")
                for _ in range(units):
                    unit(edge, origin)
            finally:
                process.stdin.close()
                process.wait(READY_S)
        found = re.search(r"^(?:summary|totals): (\d+)$", out.read_text(), re.MULTILINE)
        if not found:
            raise SystemExit("instructions: callgrind wrote no total")
        return int(found[1])


class Origin:
    """Echoes in a thread, and can say that a connection has ended."""

    def __init__(self, listener: socket.socket) -> None:
        self.address: Address = listener.getsockname()
        self.ended = threading.Semaphore(0)
        self._listener = listener

    def serve_streams(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(data)
            self.ended.release()

    def serve_datagrams(self) -> None:
        while True:
            try:
                data, sender = self._listener.recvfrom(4096)
            except OSError:
                return
            if not data:
                return  # shut down
            self._listener.sendto(data, sender)


Unit = Callable[[Address, Origin], None]


def _connection(edge: Address, origin: Origin) -> None:
    """Accept, relay a byte there and back, close by FIN; done once the origin has seen the end."""
    with socket.create_connection(edge, REPLY_S) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    assert origin.ended.acquire(timeout=REPLY_S), "the origin never saw the end"


class _Exchange:
    """Round trips on one flow, opened by the first."""

    def __init__(self, kind: socket.SocketKind, payload: bytes) -> None:
        self._kind, self._payload = kind, payload
        self._client: socket.socket | None = None
        self._edge: Address | None = None

    def __call__(self, edge: Address, origin: Origin) -> None:
        if edge != self._edge or self._client is None:
            if self._client:
                self._client.close()
            self._client, self._edge = socket.socket(socket.AF_INET, self._kind), edge
            self._client.settimeout(REPLY_S)
            self._client.connect(edge)
        self._client.sendall(self._payload)
        assert self._client.recv(4096) == self._payload


UNITS: dict[str, tuple[str, Unit]] = {
    "tcp_accept_relay_close": ("tcp", _connection),
    "tcp_accept_relay_close_steered_direct": ("steered", _connection),
    "tcp_round_trip": ("tcp", _Exchange(socket.SOCK_STREAM, b"t" * 64)),
    "udp_round_trip": ("udp", _Exchange(socket.SOCK_DGRAM, b"u" * 200)),
}


@contextmanager
def _origin(protocol: str) -> Iterator[Origin]:
    kind = _kind(protocol)
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.bind(("127.0.0.1", 0))
        origin = Origin(listener)
        if kind is socket.SOCK_STREAM:
            listener.listen()
        serve = origin.serve_streams if kind is socket.SOCK_STREAM else origin.serve_datagrams
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield origin
        finally:
            with suppress(OSError):  # "not connected", but it wakes the thread, which then ends
                listener.shutdown(socket.SHUT_RDWR)


def _kind(protocol: str) -> socket.SocketKind:
    return socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM


def _free_port(protocol: str) -> Address:
    with socket.socket(socket.AF_INET, _kind(protocol)) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()


def _build() -> Path:
    words = ["cargo", "build", "--release", "--locked", "-p", "causeway-edge", "--example", "one_worker"]
    done = subprocess.run(
        [*words, "--message-format", "json-render-diagnostics"], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
    )
    built = [json.loads(line).get("executable") for line in done.stdout.splitlines()]
    return next(Path(path) for path in built if path and Path(path).name == "one_worker")


def compiler() -> str:
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {STORED.relative_to(REPOSITORY)}")
    options = parser.parse_args()
    if reason := cannot_count():
        print(f"instructions: cannot count: {reason}", file=sys.stderr)
        return 2
    counts = count_all()
    for name, count in counts.items():
        before = stored()["instructions"].get(name) if STORED.exists() else None
        print(f"{name}: {count:,}" + (f", stored {before:,} ({count / before - 1:+.1%})" if before else ""))
    if options.write:
        STORED.write_text(json.dumps({"compiler": compiler(), "instructions": counts}, indent=1) + "\n")
        rows = [[name.replace("_", " "), f"{count:,}"] for name, count in counts.items()]
        markdown.replace(PAGE, {"instructions": report.table(["unit", "instructions of ours"], rows)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
