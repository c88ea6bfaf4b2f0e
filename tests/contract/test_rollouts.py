"""Changes go to edges of other machines in stages, and come back where they do harm: real edges, a real nats-server."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.echo import ask, start_echo
from support.edge import Running
from support.nats import NatsServer
from support.outpost import Outpost
from support.patience import eventually
from support.ports import free_port
from support.program import Programs

BAKE_S = 1.5
BACK_S = 30.0  # the goal
ADDRESSES = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"]
FIRST = ADDRESSES[0]  # of the edge that comes first where none has clients


class Network:
    """One control and five edges."""

    def __init__(self, programs: Programs, folder: Path, make_edge: Callable[..., Running]) -> None:
        self.programs = programs
        self.nats = NatsServer(programs, folder / "nats").start()
        flags = ("--workers", "1", "--rollout-bake-s", str(BAKE_S))
        self.control = make_edge("--exchange", self.nats.url, *flags).start()
        self.edges = [
            Outpost(programs, folder / f"e{number}", self.nats.url, f"e{number}", address)
            for number, address in enumerate(ADDRESSES)
        ]

    def served(self, port: int, answer: bytes = b"hello") -> list[str]:
        """Where."""
        return [address for address in ADDRESSES if answer_of(port, address) == answer]

    def everywhere(self, port: int, answer: bytes = b"hello", within_s: float = 20.0) -> None:
        eventually(lambda: self.served(port, answer) == ADDRESSES, within_s)

    def contents(self) -> dict[str, str]:
        """Of each edge: the digest of what it serves."""
        return {edge["name"]: edge["content"] for edge in self.control.status()["edges"] if "remote" in edge}

    def rollouts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control.result("GET", "/api/v1/rollouts")
        return found

    def ended(self, state: str, within_s: float = BACK_S) -> dict[str, Any]:
        """The newest rollout, once it is in that state."""
        return eventually(lambda: (found := self.rollouts()) and found[0]["state"] == state and found[0], within_s)

    def move(self, application: str, **fields: object) -> None:
        self.control.result("PATCH", f"{self.control.applications}/{application}", fields)


def answer_of(port: int, address: str) -> bytes | None:
    with contextlib.suppress(OSError):
        return ask(port, address)
    return None


@pytest.fixture
def network(programs: Programs, tmp_path: Path, make_edge: Callable[..., Running]) -> Iterator[Network]:
    made = Network(programs, tmp_path, make_edge)
    for edge in made.edges:
        edge.start(ready=None)
    for edge in made.edges:
        edge.await_readiness(200)
    yield made


@contextlib.contextmanager
def taken(port: int, address: str) -> Iterator[None]:
    """Another program has that port."""
    with socket.create_server((address, port)):
        yield


def test_a_change_goes_to_one_edge_first_and_to_all_in_the_end(network: Network) -> None:
    port = free_port()
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    network.everywhere(port, within_s=5.0)
    assert network.rollouts() == [], "what is new goes to all at once"
    before = network.contents()

    other = start_echo(network.programs, greeting="other ")
    network.move(application, origin_direct=[f"tcp://127.0.0.1:{other}"])
    eventually(lambda: network.served(port, b"other hello") == [FIRST], 5.0)
    assert len(network.served(port)) == 4
    network.everywhere(port, b"other hello")
    done = network.ended("done")
    assert (done["stage"], done["sizes"], done["reason"]) == (2, [1, 5], None)
    assert done["edges"][0] == "e0"
    assert [(one["application_id"], one["how"]) for one in done["changes"]] == [(application, "changed")]
    assert network.contents() != before
    assert network.control.status()["rollouts"] is None


def test_a_listener_that_the_first_edge_refuses_halts_the_rollout_and_no_other_edge_ever_has_it(
    network: Network,
) -> None:
    port, wanted = free_port(), free_port()
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    network.everywhere(port)
    before = eventually(lambda: (found := network.contents()) and all(found.values()) and found)
    with taken(wanted, FIRST):
        network.move(application, protocol=f"tcp/{wanted}")
        began_s = time.monotonic()
        halted = network.ended("halted")
        eventually(lambda: network.contents() == before, 5.0)
        assert time.monotonic() - began_s < BACK_S
    assert "e0: it cannot listen on tcp/" in halted["reason"] and str(wanted) in halted["reason"]
    assert halted["edges"] == ["e0"]
    network.everywhere(port, within_s=5.0)
    assert network.served(wanted) == []
    assert answer_of(wanted, "127.0.0.1") == b"hello", "the machine of control has it, as the API has said"
