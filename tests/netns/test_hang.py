"""A worker that hangs is replaced within three seconds; a process that is stopped as a whole is not taken for that."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.echo import ask, ask_udp, echoes, start_echo
from support.edge import Running
from support.freeze import frozen, threads
from support.patience import eventually
from support.ports import free_port
from support.program import Programs

REPLACED_S = 3.0
CONNECTIONS = 40


class World:
    """An edge of two workers, an echo behind it, and connections that both workers have a part of."""

    def __init__(self, programs: Programs, edge: Running) -> None:
        self.edge, self.origin = edge, start_echo(programs)
        self.port = free_port()
        for transport in ("tcp", "udp"):
            edge.create_application(f"{transport}/{self.port}", f"{transport}://127.0.0.1:{self.origin}")
        self.held = [socket.create_connection(("127.0.0.1", self.port), timeout=5) for _ in range(CONNECTIONS)]
        assert all(echoes(connection) for connection in self.held)

    def status(self) -> dict[str, Any]:
        edge = self.edge.status()["edges"][0]
        assert isinstance(edge, dict)
        return edge

    def lives(self, connection: socket.socket) -> bool:
        try:
            return echoes(connection)
        except ConnectionResetError:
            return False

    def close(self) -> None:
        for connection in self.held:
            connection.close()


@pytest.fixture
def world(programs: Programs, make_edge: Callable[..., Running]) -> Iterator[World]:
    made = World(programs, make_edge("--workers", "2").start())
    yield made
    made.close()


@pytest.mark.alone
def test_a_frozen_worker_costs_its_own_connections_and_nothing_else(world: World) -> None:
    edge = world.edge
    assert edge.program
    [thread] = threads(edge.serving_pid, "edge-worker-0")
    with frozen(thread):
        began_s = time.monotonic()
        assert all(ask(world.port) == b"hello" for _ in range(CONNECTIONS)), "what waited is served"
        assert time.monotonic() - began_s < REPLACED_S
        assert all(ask_udp(world.port) == b"hello" for _ in range(10))
        other = free_port()
        edge.create_application(f"tcp/{other}", f"tcp://127.0.0.1:{world.origin}")
        assert all(ask(other) == b"hello" for _ in range(10)), "changes reach the new worker"

        alive = [connection for connection in world.held if world.lives(connection)]
        assert 0 < len(alive) < CONNECTIONS
        assert (world.status()["workers"], world.status()["workers_replaced_total"]) == (2, 1)
        eventually(lambda: "1 worker(s) of the edge hung and were replaced" in edge.output)

    # It wakes up late.
    eventually(lambda: len(threads(edge.serving_pid, "edge-worker-0")) == 1)
    eventually(lambda: world.status()["totals"]["connections_open"] <= len(alive) + 11)
    assert all(echoes(connection) for connection in alive)
    assert all(ask(world.port) == b"hello" for _ in range(CONNECTIONS))
    assert all(ask_udp(world.port) == b"hello" for _ in range(10))
    edge.program.send(signal.SIGTERM)
    eventually(lambda: "draining" in edge.output)
    assert edge.stop() == 0, "a second signal cuts what is left"


def test_a_process_that_was_stopped_as_a_whole_keeps_its_workers(world: World) -> None:
    program = world.edge.program
    assert program
    program.send(signal.SIGSTOP)
    time.sleep(REPLACED_S + 1)  # what is tested: longer than any worker may hang
    program.send(signal.SIGCONT)
    assert all(echoes(connection) for connection in world.held)
    time.sleep(REPLACED_S)  # what is tested: nothing happens afterwards
    assert world.status()["workers_replaced_total"] == 0
    assert all(echoes(connection) for connection in world.held)
