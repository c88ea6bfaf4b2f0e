"""Changes go to edges of other machines in stages, and come back where they do harm: real edges, a real nats-server."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.echo import ask, start_echo
from support.edge import CAUSEWAY, Running
from support.meanwhile import again_and_again
from support.nats import NatsServer
from support.outpost import Outpost
from support.patience import eventually
from support.ports import free_port
from support.program import Programs, environment

BAKE_S = 1.5
BACK_S = 30.0  # the goal
ADDRESSES = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"]
STRANGER = "127.0.0.99"
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


def is_let_in(port: int, address: str, source: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 2, (source, 0)) as connection:
        connection.sendall(b"hello")
        return connection.recv(5) == b"hello"
    return False


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
    origin = start_echo(network.programs)
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    network.everywhere(port, within_s=5.0)
    assert network.rollouts() == [], "what is new goes to all at once"
    before = eventually(lambda: (found := network.contents()) and all(found.values()) and found)

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

    back = {"origin_direct": [f"tcp://127.0.0.1:{origin}"]}
    network.control.result("PATCH", f"{network.control.applications}/{application}?now=true", back)
    eventually(lambda: network.contents() == before, 5.0)
    assert network.served(port) == ADDRESSES


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
    assert network.control.status()["rollouts"] == {"open": None, "halted": [halted["number"]], "waiting": 0}


def test_connects_that_fail_after_a_change_halt_it(network: Network) -> None:
    port = free_port()
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    network.everywhere(port)
    before = eventually(lambda: (found := network.contents()) and all(found.values()) and found)
    began_s = time.monotonic()
    network.move(application, origin_direct=[f"tcp://127.0.0.1:{free_port()}"])  # where nobody listens
    eventually(lambda: answer_of(port, FIRST) != b"hello", 5.0)
    for _ in range(12):
        answer_of(port, FIRST)
    halted = network.ended("halted")
    assert "e0: " in halted["reason"] and "connects to origins" in halted["reason"], halted["reason"]
    network.everywhere(port, within_s=BACK_S)
    assert time.monotonic() - began_s < BACK_S
    eventually(lambda: network.contents() == before, 5.0)


def test_an_edge_that_dies_of_a_change_halts_it(network: Network) -> None:
    port, wanted = free_port(), free_port()
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    network.everywhere(port)
    network.move(application, protocol=f"tcp/{wanted}")
    eventually(lambda: network.served(wanted) == [FIRST], 5.0)
    network.edges[0].kill()
    halted = network.ended("halted")
    assert "e0: it went silent" in halted["reason"]
    network.edges[0].start()
    network.everywhere(port, within_s=BACK_S)
    assert network.served(wanted) == []


def test_a_change_that_kills_every_process_that_serves_it_is_served_no_more_by_the_third(network: Network) -> None:
    port, wanted, edge = free_port(), free_port(), network.edges[0]
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    network.everywhere(port)
    killed = 0

    def is_deadly() -> None:
        """As a fault of the engine that this change sets off."""
        nonlocal killed
        if answer_of(wanted, FIRST) == b"hello" and edge.program:
            for child in edge.program.children():
                os.kill(int(child), signal.SIGSEGV)
            killed += 1
            eventually(lambda: answer_of(wanted, FIRST) is None, 5.0)

    with again_and_again(is_deadly):
        network.move(application, protocol=f"tcp/{wanted}")
        eventually(lambda: killed, 5.0)
        halted = network.ended("halted")
        network.everywhere(port, within_s=BACK_S)
    assert "e0: " in halted["reason"]
    assert killed == 2, "the third process did not serve it"
    assert "not served by the next one" in edge.output


def test_a_halted_rollout_keeps_its_own_applications_back_and_lets_others_go_on(network: Network) -> None:
    control, origin, other = network.control, start_echo(network.programs), start_echo(network.programs, greeting="o ")
    port, wanted, second = free_port(), free_port(), free_port()
    application = control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    neighbour = control.create_application(f"tcp/{second}", f"tcp://127.0.0.1:{origin}")
    network.everywhere(second)
    with taken(wanted, FIRST):
        network.move(application, protocol=f"tcp/{wanted}")
        halted = network.ended("halted")
    network.move(neighbour, origin_direct=[f"tcp://127.0.0.1:{other}"])
    network.everywhere(second, b"o hello")
    assert network.served(port) == ADDRESSES

    control.restart()
    eventually(lambda: len(network.contents()) == 5)
    late = free_port()
    control.create_application(f"tcp/{late}", f"tcp://127.0.0.1:{origin}")
    network.everywhere(late, within_s=5.0)
    assert control.status()["rollouts"]["halted"] == [halted["number"]], "it stays so"
    assert network.served(port) == ADDRESSES and network.served(wanted) == []

    control.result("POST", f"/api/v1/rollouts/{halted['number']}/resume")
    network.everywhere(wanted, within_s=BACK_S)
    assert network.served(port) == []
    assert [one["state"] for one in network.rollouts()[-1:]] == ["superseded"]


def test_a_rollout_goes_on_where_it_was_when_control_is_back(network: Network) -> None:
    port, wanted = free_port(), free_port()
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    network.everywhere(port)
    network.move(application, protocol=f"tcp/{wanted}")
    eventually(lambda: network.served(wanted) == [FIRST], 5.0)
    network.control.kill_all()
    assert network.served(wanted) == [FIRST]
    network.nats.kill()
    network.nats.start()
    network.control.start()
    assert network.served(wanted) == [FIRST]
    assert network.served(port) == ADDRESSES[1:]
    network.everywhere(wanted, within_s=BACK_S)
    done = network.ended("done")
    assert (done["number"], done["edges"][0], len(network.rollouts())) == (1, "e0", 1)


def test_what_the_operator_takes_back_is_what_it_was_everywhere(network: Network) -> None:
    control, origin = network.control, start_echo(network.programs)
    port, wanted, second = free_port(), free_port(), free_port()
    application = control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    removed = control.create_application(f"tcp/{second}", f"tcp://127.0.0.1:{origin}")
    network.everywhere(second)
    with taken(wanted, FIRST):
        network.move(application, protocol=f"tcp/{wanted}")
        eventually(network.rollouts)  # it has begun: what comes now goes out by itself
        control.delete_application(removed)
        eventually(lambda: control.status()["rollouts"]["waiting"] == 0, 20)
    deleted = network.ended("done")
    assert [one["how"] for one in deleted["changes"]] == ["deleted"]
    number = network.rollouts()[1]["number"]
    eventually(lambda: network.served(second) == [], 5.0)
    before = network.contents()
    assert control.result("POST", f"/api/v1/rollouts/{number}/rollback") == {"applications": [application]}
    assert answer_of(port, "127.0.0.1") == b"hello" and answer_of(wanted, "127.0.0.1") is None
    assert control.status()["rollouts"] is None
    assert control.result("GET", f"/api/v1/rollouts/{number}")["state"] == "rolled_back"
    late = free_port()
    network.everywhere(port, within_s=5.0)
    assert network.contents() == before, "edges had it already"
    control.create_application(f"tcp/{late}", f"tcp://127.0.0.1:{origin}")
    network.everywhere(late, within_s=5.0)
    answer = control.http.post(f"/api/v1/rollouts/{number}/rollback")
    assert answer.status_code == 400 and "is over" in answer.json()["errors"][0]["message"]
    assert control.http.get("/api/v1/rollouts/99").status_code == 404


def test_an_emergency_reaches_all_edges_at_once(network: Network) -> None:
    control, origin = network.control, start_echo(network.programs)
    port, wanted, last = free_port(), free_port(), free_port()
    application = control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    network.everywhere(port)
    control.result("PATCH", f"{control.applications}/{application}?now=true", {"protocol": f"tcp/{wanted}"})
    network.everywhere(wanted, within_s=10.0)
    assert network.rollouts() == []

    network.move(application, protocol=f"tcp/{last}")
    eventually(lambda: network.served(last) == [FIRST], 5.0)
    assert control.result("POST", "/api/v1/rollouts/push") == {"applications": [application]}
    network.everywhere(last, within_s=10.0)
    assert network.rollouts()[0]["state"] == "pushed"

    control.result("DELETE", f"{control.applications}/{application}?now=true")
    eventually(lambda: network.served(last) == [], 10.0)


def test_rules_of_the_firewall_and_drain_act_at_once_while_a_rollout_is_under_way(network: Network) -> None:
    control, origin, other = network.control, start_echo(network.programs), start_echo(network.programs, greeting="o ")
    port = free_port()
    application = control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}", ip_firewall=True)
    network.everywhere(port)
    network.move(application, origin_direct=[f"tcp://127.0.0.1:{other}"])
    eventually(lambda: network.served(port, b"o hello") == [FIRST], 5.0)
    control.result("PUT", "/api/v1/edges/e4", {"drained": True})
    eventually(lambda: network.served(port) == ADDRESSES[1:4], 5.0)
    zone = control.applications.split("/")[4]
    rule = {"mode": "block", "configuration": {"target": "ip", "value": "127.0.0.1"}, "x_causeway": {}}
    control.result("POST", f"/client/v4/zones/{zone}/firewall/access_rules/rules", rule)
    eventually(lambda: network.served(port) == network.served(port, b"o hello") == [], 5.0)


def test_a_deleted_application_keeps_its_rules_as_long_as_an_edge_serves_it(network: Network) -> None:
    control, port = network.control, free_port()
    origin = f"tcp://127.0.0.1:{start_echo(network.programs)}"
    application = control.create_application(f"tcp/{port}", origin, ip_firewall=True)
    network.everywhere(port)
    rules = f"/client/v4/zones/{control.applications.split('/')[4]}/firewall/access_rules/rules"
    block = {"mode": "block", "configuration": {"target": "ip", "value": STRANGER}}
    control.result("POST", rules, {**block, "x_causeway": {"application": application}})
    eventually(lambda: not any(is_let_in(port, address, STRANGER) for address in ADDRESSES), 5.0)
    control.delete_application(application)
    other = free_port()
    control.create_application(f"tcp/{other}", origin, ip_firewall=True)
    control.result(
        "POST", rules, {"mode": "block", "configuration": {"target": "ip", "value": "192.0.2.1"}}
    )  # all anew
    eventually(lambda: network.served(port) == ADDRESSES[1:], 5.0)
    while network.served(port):
        assert not any(is_let_in(port, address, STRANGER) for address in ADDRESSES)
    network.ended("done")
    assert [rule["configuration"]["value"] for rule in control.result("GET", rules)] == ["192.0.2.1"]


def test_a_new_application_on_a_port_that_edges_still_have_waits_for_it(network: Network) -> None:
    control, origin, other = network.control, start_echo(network.programs), start_echo(network.programs, greeting="o ")
    port = free_port()
    application = control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    network.everywhere(port)
    control.delete_application(application)
    control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{other}")
    network.everywhere(port, b"o hello", BACK_S)
    assert not any(edge["refused"] for edge in control.status()["edges"])
    eventually(lambda: control.status()["rollouts"] is None)


def test_most_applications_at_once_are_not_deleted_unless_that_is_said(network: Network) -> None:
    control, origin = network.control, start_echo(network.programs)
    ports = [free_port() for _ in range(30)]
    made = [control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}") for port in ports]
    network.everywhere(ports[-1])
    for application in made[:-1]:
        control.delete_application(application)
    halted = network.ended("halted")
    # The first goes out by itself, or as many as are deleted before it does; the others wait for that.
    told = re.search(r"it deletes (\d+) of the (\d+) applications", halted["reason"])
    assert told, halted["reason"]
    assert 10 <= int(told[1]) < len(ports) and int(told[1]) < int(told[2]) <= len(ports)
    assert halted["edges"] == []
    assert network.served(ports[-2]) == ADDRESSES
    control.result("POST", f"/api/v1/rollouts/{halted['number']}/push")
    eventually(lambda: network.served(ports[-2]) == [], 10.0)


def test_the_last_edge_of_an_application_is_not_drained_unless_that_is_forced(network: Network) -> None:
    control, port = network.control, free_port()
    body = {
        "protocol": f"tcp/{port}",
        "dns": {"type": "ADDRESS", "name": "alone.example.net"},
        "origin_direct": [f"tcp://127.0.0.1:{start_echo(network.programs)}"],
        "edge_ips": {"type": "static", "ips": [FIRST]},
    }
    eventually(lambda: len(network.contents()) == 5)
    control.result("POST", control.applications, body)
    eventually(lambda: network.served(port) == [FIRST], 5.0)
    answer = control.http.put("/api/v1/edges/e0", json={"drained": True})
    assert answer.status_code == 400 and "would be on no edge" in answer.json()["errors"][0]["message"]
    assert network.served(port) == [FIRST]
    control.result("PUT", "/api/v1/edges/e1", {"drained": True})
    control.result("PUT", "/api/v1/edges/e0?force=true", {"drained": True})
    eventually(lambda: network.served(port) == [], 5.0)


def test_people_see_rollouts_and_act_on_them(network: Network) -> None:
    def causeway(*arguments: str) -> str:
        done = subprocess.run(
            [CAUSEWAY, *arguments], capture_output=True, text=True, timeout=30,
            env=environment({"CAUSEWAY_URL": network.control.url, "CAUSEWAY_API_TOKEN": network.control.token}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "no rollouts yet" in causeway("rollouts")
    port, wanted = free_port(), free_port()
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    network.everywhere(port)
    with taken(wanted, FIRST):
        network.move(application, protocol=f"tcp/{wanted}")
        network.ended("halted")
        assert "halted" in causeway("rollouts") and "it cannot listen on" in causeway("rollouts", "-o", "json")
        told = causeway("rollouts", "show", "1")
        assert f"app-tcp-{port}.example.net changed" in told and "causeway rollouts rollback 1" in told
        assert "1 is halted: see causeway rollouts show 1" in causeway("status")
        assert causeway("edges").count("serving, a change waits") == 5
        causeway("rollouts", "resume", "1")
        eventually(lambda: [one["state"] for one in network.rollouts()] == ["halted", "superseded"], BACK_S)
    assert "1 application is on the way" in causeway("rollouts", "push", "2")
    network.everywhere(wanted, within_s=10.0)
    assert "pushed" in causeway("rollouts") and "superseded" in causeway("rollouts")
    assert "nothing was under way" in causeway("rollouts", "push")
    causeway("apps", "update", f"app-tcp-{port}.example.net", "--protocol", f"tcp/{port}", "--now")
    network.everywhere(port, within_s=10.0)
    causeway("apps", "delete", f"app-tcp-{port}.example.net", "--now")
    eventually(lambda: network.served(port) == [], 10.0)
