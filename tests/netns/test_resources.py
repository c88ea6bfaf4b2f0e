"""What streams and idle connections cost in memory of the process: promised figures, measured on the product."""

import random
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.echo import echoes, reset, start_echo
from support.edge import Running
from support.patience import eventually
from support.ports import free_port
from support.program import Programs

STREAM_BYTES = 1_000_000_000
STALL_S = 5.0
STREAM_GROWTH_BYTES = 4_000_000
CONNECTIONS = 5_000
IDLE_BYTES = 8 * 1024
CHUNK = random.Random(5).randbytes(1_000_000)


@pytest.fixture
def edge(programs: Programs, tmp_path: Path) -> Iterator[Running]:
    running = Running(programs, tmp_path / "data", "--workers", "1").start()
    yield running
    running.close()


def settled_rss(edge: Running) -> int:
    """The memory of the process once it stands still for a second."""
    seen = [edge.rss_bytes]

    def stands_still() -> bool:
        seen.append(edge.rss_bytes)
        return len(seen) > 10 and max(seen[-10:]) - min(seen[-10:]) <= 4096

    eventually(stands_still, 15, every_s=0.1)
    return seen[-1]


class Reader(threading.Thread):
    """Reads a little, stalls, reads the rest."""

    def __init__(self, source: socket.socket) -> None:
        super().__init__()
        self.source, self.count, self.checksum = source, 0, 0
        self.is_stalled = threading.Event()

    def run(self) -> None:
        buffer = bytearray(1_000_000)
        while got := self.source.recv_into(buffer):
            before, self.count = self.count, self.count + got
            self.checksum = zlib.crc32(memoryview(buffer)[:got], self.checksum)
            if before < STREAM_BYTES // 10 <= self.count:
                self.is_stalled.set()
                time.sleep(STALL_S)  # what is tested: a reader that does not read


def send_stream(target: socket.socket) -> None:
    for _ in range(STREAM_BYTES // len(CHUNK)):
        target.sendall(CHUNK)
    target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_gigabyte_into_a_reader_that_stalls_grows_the_process_by_less_than_4_mb(
    edge: Running, direction: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = free_port()
        edge.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        client = socket.create_connection(("127.0.0.1", port))
        origin, _ = listener.accept()
    with client, origin:
        before = settled_rss(edge)
        source, target = (client, origin) if direction == "up" else (origin, client)
        reader, sender = Reader(target), threading.Thread(target=send_stream, args=(source,))
        reader.start()
        sender.start()
        highest = before
        while reader.is_alive():
            highest = max(highest, edge.rss_bytes)
            time.sleep(0.02)
        sender.join()
    expected = 0
    for _ in range(STREAM_BYTES // len(CHUNK)):
        expected = zlib.crc32(CHUNK, expected)
    assert reader.is_stalled.is_set()
    assert (reader.count, reader.checksum) == (STREAM_BYTES, expected)
    print(f"grew by {(highest - before) / 1e6:.2f} MB")
    assert highest - before < STREAM_GROWTH_BYTES


def test_5000_idle_connections_cost_at_most_8_kib_each(edge: Running, programs: Programs) -> None:
    port = free_port()
    edge.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")

    def connect() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        assert echoes(connection)
        return connection

    for _ in range(100):  # what the first connections bring is not what each one costs
        reset(connect())
    before = settled_rss(edge)
    held: list[socket.socket] = []
    try:
        held.extend(connect() for _ in range(CONNECTIONS))
        each = (settled_rss(edge) - before) / CONNECTIONS
        assert all(echoes(connection) for connection in held), "idle connections still carry bytes"
    finally:
        for connection in held:
            reset(connection)
    print(f"{each:.0f} bytes of process memory for each of {CONNECTIONS} idle connections")
    assert each <= IDLE_BYTES
