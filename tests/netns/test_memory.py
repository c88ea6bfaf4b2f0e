"""256 MiB for the whole process and 2,000 clients that read slowly: older connections live, nothing is killed."""

import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cgroup import MemoryGroup, memory_group
from support.echo import ask, echoes, reset, start_echo
from support.edge import Running
from support.patience import eventually
from support.ports import free_port
from support.program import Programs

pytestmark = pytest.mark.alone

LIMIT_BYTES = 256 << 20
NARROW_BYTES = 88 << 20
SLOW_READERS = 2_000
OLDER = 200
ANSWERS_WITHIN_S = 5.0
POURING = Path(__file__).parents[1] / "support/pouring_server.py"


@pytest.fixture
def group(request: pytest.FixtureRequest, programs: Programs) -> Iterator[MemoryGroup]:
    with memory_group(getattr(request, "param", LIMIT_BYTES)) as made:
        yield made
        programs.end()  # a cgroup goes only when nothing runs in it


@pytest.fixture(autouse=True)
def many_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3 * SLOW_READERS and hard < 3 * SLOW_READERS:
        pytest.skip(f"this test needs {3 * SLOW_READERS} descriptors, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class SlowReaders(threading.Thread):
    """Connections that take a kilobyte a second each, until they are told to end."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port, self.opened, self.refused = port, 0, 0
        self.held: list[socket.socket] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0 if self.opened < SLOW_READERS else 1.0):
            for _ in range(min(100, SLOW_READERS - self.opened)):
                self.opened += 1
                try:
                    reader = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                    reader.setblocking(False)
                    self.held.append(reader)
                except ConnectionResetError:
                    self.refused += 1
            self.held = [reader for reader in self.held if self.read(reader)]
        for reader in self.held:
            reset(reader)

    def read(self, reader: socket.socket) -> bool:
        try:
            return bool(reader.recv(1_000))
        except BlockingIOError:
            return True
        except OSError:
            self.refused += 1
            reader.close()
            return False


def test_slow_readers_cost_themselves_and_nobody_else(
    group: MemoryGroup, programs: Programs, make_edge: Callable[..., Running]
) -> None:
    edge = make_edge(under=group.under).start()
    echo_port, slow_port, origin_port = free_port(), free_port(), free_port()
    origin = programs.start(sys.executable, POURING, "127.0.0.1", str(origin_port))
    eventually(lambda: "listening" in origin.output)
    edge.create_application(f"tcp/{echo_port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    slow = edge.create_application(f"tcp/{slow_port}", f"tcp://127.0.0.1:{origin_port}")
    older = [socket.create_connection(("127.0.0.1", echo_port), timeout=10) for _ in range(OLDER)]
    assert all(echoes(connection) for connection in older)

    readers = SlowReaders(slow_port)
    readers.start()
    try:
        eventually(lambda: readers.opened == SLOW_READERS, 60)
        eventually(lambda: edge.counters(slow)["shed_total"] > 0, 20, every_s=0.2)
        end_s, waited_s = time.monotonic() + 8, 0.0
        while time.monotonic() < end_s:  # what is tested: that it holds while they go on
            began_s = time.monotonic()
            assert edge.status()["edges"][0]["memory"]["limit_bytes"] == LIMIT_BYTES
            waited_s = max(waited_s, time.monotonic() - began_s)
            time.sleep(0.2)
        assert waited_s < ANSWERS_WITHIN_S
        kept = sum(lives(connection) for connection in older)
        memory = edge.status()["edges"][0]["memory"]
        print(
            f"{kept} of {OLDER} older connections kept; {readers.refused} of {SLOW_READERS} slow readers shed; "
            f"API within {waited_s:.2f} s; {memory['used_bytes'] / LIMIT_BYTES:.0%} used; peaks {group.peak_bytes}"
        )
        assert group.oom_kills == 0
        assert kept >= 0.99 * OLDER
        assert edge.event(slow, cause="shed_memory")["status"] == 500
        assert "memory is short" in edge.output
    finally:
        readers.is_over.set()
        readers.join()

    eventually(lambda: ask(echo_port) == b"hello", 10)
    eventually(lambda: not edge.status()["edges"][0]["memory"]["is_full"], 10)
    eventually(lambda: "It is over" in edge.output, 10)
    assert edge.output.count("memory is short") == 1, "said once"
    assert all(ask(echo_port) == b"hello" for _ in range(50)), "everybody is served again"
    assert sum(lives(connection) for connection in older) >= 0.99 * OLDER
    assert group.oom_kills == 0
    for connection in older:
        reset(connection)


@pytest.mark.parametrize("group", [NARROW_BYTES], indirect=True)
def test_a_guard_that_memory_is_too_short_for_is_refused_before_the_kernel_kills(
    group: MemoryGroup, make_edge: Callable[..., Running]
) -> None:
    edge = make_edge("--guard", "on", under=group.under)
    program = edge.launch()
    assert program.wait(30) != 0
    assert "the guard is on, but to load it takes" in program.output
    assert "the memory limit leaves" in program.output
    assert group.oom_kills == 0


def lives(connection: socket.socket) -> bool:
    try:
        return echoes(connection)
    except OSError:
        return False
