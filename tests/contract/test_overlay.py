"""Flows over other edges: control, certified edges and a real nats-server, all of it on addresses of this machine."""

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.certified import CertifiedNetwork
from support.echo import ask, ask_udp, echoes, reset, start_echo
from support.edge import CAUSEWAY, ZONE, Running
from support.outpost import Outpost
from support.patience import eventually
from support.ports import free_port
from support.program import Programs, environment

LOCAL, FRA, AMS = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class Network(CertifiedNetwork):
    """Three edges that speak to each other: control's own, fra-1 and ams-1."""

    def __init__(self, programs: Programs, folder: Path, make_edge: Callable[..., Running]) -> None:
        flags = ("--overlay", f"{LOCAL}:{free_port()}", "--rollout-bake-s", "2")
        super().__init__(programs, folder, make_edge, *flags)
        self.fra, self.ams = self.edge("fra-1", FRA), self.edge("ams-1", AMS)
        for edge in (self.fra, self.ams):
            edge.start(ready=None)
        assert self.control.applications  # there is a zone
        eventually(self.is_whole, 30)

    def edge(self, name: str, address: str) -> Outpost:
        overlay = ("--overlay", f"{address}:{free_port()}")
        return Outpost(self.programs, self.folder / name, str(self.invite(name)), name, address, *overlay)

    def done(self) -> int:
        """Rollouts that have passed all stages."""
        return sum(one["state"] == "done" for one in self.control.result("GET", "/api/v1/rollouts"))

    def is_whole(self) -> bool:
        """Whether each edge has heard of both others, and can show them who it is."""
        told = [state["overlay"] for state in self.states().values()]
        return len(told) == 3 and all(one and one["peers"] == 2 and not one["missing"] for one in told)

    def states(self) -> dict[str, dict[str, Any]]:
        return {edge["name"]: edge for edge in self.control.status()["edges"]}

    def settled(self) -> dict[str, int]:
        """The same, once every edge has told of all that went over it: they do so once a second."""
        told = [self.relayed()]

        def is_settled() -> bool:
            told.append(self.relayed())
            return len(told) > 5 and all(one == told[-1] for one in told[-5:])

        eventually(is_settled, 15, every_s=0.5)
        return told[-1]

    def relayed(self) -> dict[str, int]:
        return {name: state["overlay"]["relayed"]["connections_total"] for name, state in self.states().items()}

    def serve(self, *paths: str, greeting: str = "", protocol: str = "tcp") -> int:
        """The port of an application of all edges whose flows go that way, once it is served there."""
        is_served = asked if protocol == "tcp" else asked_udp
        port, origin = free_port(), start_echo(self.programs, greeting=greeting)
        ways = [word for path in paths for word in ("--path", path)]
        self.command(
            *("apps", "create", "--dns", f"app-{port}.{ZONE}", "--protocol", f"{protocol}/{port}"),
            *("--origin", f"127.0.0.1:{origin}", *ways),
        )
        eventually(lambda: all(is_served(port, at) for at in (LOCAL, FRA, AMS)), 10)
        return port


def asked(port: int, address: str) -> bool:
    return ask(port, address).endswith(b"hello")


def asked_udp(port: int, address: str) -> bool:
    return ask_udp(port, address) == b"hello"


@pytest.fixture
def network(programs: Programs, tmp_path: Path, make_edge: Callable[..., Running]) -> Iterator[Network]:
    yield Network(programs, tmp_path, make_edge)


def test_flows_go_over_the_edges_that_a_path_names_and_each_takes_what_is_left_of_it(network: Network) -> None:
    port = network.serve("ams-1,fra-1")
    before = network.settled()
    for at, relayed in ((LOCAL, {"ams-1": 1, "fra-1": 1}), (AMS, {"fra-1": 1}), (FRA, {})):
        assert asked(port, at)
        after = network.settled()
        assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == relayed
        before = after


def test_sessions_go_over_the_edges_that_a_path_names_and_each_takes_what_is_left_of_it(network: Network) -> None:
    port = network.serve("ams-1,fra-1", protocol="udp")
    before = network.settled()
    for at, relayed in ((LOCAL, {"ams-1", "fra-1"}), (AMS, {"fra-1"}), (FRA, set())):
        assert asked_udp(port, at)
        after = network.settled()
        assert {name for name in after if after[name] > before[name]} == relayed
        before = after


def test_sessions_go_round_an_edge_that_was_lost_and_outlive_none_that_is_upgraded(network: Network) -> None:
    port = network.serve("ams-1,fra-1", "direct", protocol="udp")
    network.ams.upgrade()
    eventually(lambda: "handed over in" in network.ams.output, 30)
    before = network.settled()
    eventually(lambda: asked_udp(port, LOCAL) and network.relayed()["fra-1"] > before["fra-1"], 20, every_s=0.5)
    network.ams.kill()
    for _ in range(20):
        assert asked_udp(port, LOCAL), f"without {network.ams.name}"


def test_an_edge_that_was_lost_is_gone_round(network: Network) -> None:
    port = network.serve("ams-1,fra-1", "fra-1", "direct")
    for edge in (network.ams, network.fra):
        edge.kill()
        eventually(lambda: asked(port, LOCAL), 5)  # one that was under way goes with it
        for _ in range(20):
            assert asked(port, LOCAL), f"without {edge.name}"


def test_a_drained_edge_keeps_the_flows_it_has_for_others_and_gets_no_more(network: Network) -> None:
    port = network.serve("fra-1", "direct")
    with socket.create_connection((LOCAL, port), timeout=5) as held:
        assert echoes(held)
        network.command("drain", "fra-1")
        for _ in range(40):
            assert asked(port, LOCAL), "through the drain, none fails"
        before = network.settled()
        assert asked(port, LOCAL)
        assert network.settled() == before, "none goes there any more"
        assert echoes(held)
        reset(held)


def test_flows_need_neither_control_nor_exchange(network: Network) -> None:
    port = network.serve("fra-1")
    with socket.create_connection((AMS, port), timeout=5) as held:
        assert echoes(held)
        network.control.kill_all()
        network.nats.stop()
        assert echoes(held)
        assert asked(port, AMS)
        network.fra.kill()
        network.fra.start()
        eventually(lambda: asked(port, AMS), 10)
        reset(held)


def test_a_restart_of_control_cuts_nothing_between_other_edges(network: Network) -> None:
    port = network.serve("fra-1")
    with socket.create_connection((AMS, port), timeout=5) as held:
        assert echoes(held)
        for _ in range(2):
            network.control.kill_all()
            network.control.start()
            heard = network.ams.output.count("serves snapshot"), network.control.output.count("edge ams-1 serves")
            later = network.serve("fra-1")
            for _ in range(20):
                assert asked(port, AMS) and asked(later, AMS), heard
            assert echoes(held)
        eventually(network.is_whole, 15)
        assert asked(port, LOCAL)
        reset(held)


@contextmanager
def none_fails(port: int, address: str) -> Iterator[None]:
    """Of flows, fifty a second, while something else is done."""
    failed: list[object] = []
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.02):
            try:
                if not asked(port, address):
                    failed.append("no answer")
            except OSError as error:
                failed.append(error)

    asking = threading.Thread(target=go_on)
    asking.start()
    try:
        yield
    finally:
        stop.set()
        asking.join()
    assert failed == []


def test_an_upgrade_of_control_fails_no_flow_of_its_own_edge(network: Network) -> None:
    port = network.serve("fra-1")
    with none_fails(port, LOCAL):
        network.control.program.send(signal.SIGHUP)  # type: ignore[union-attr]
        eventually(lambda: "handed over in" in network.control.output, 30)
        eventually(network.is_whole, 30)


def test_another_path_goes_out_in_stages_and_fails_no_flow_on_the_way(network: Network) -> None:
    port = network.serve("direct")
    application = network.control.result("GET", network.control.applications)[0]["id"]
    eventually(lambda: network.control.status()["rollouts"] is None, 10)
    with none_fails(port, AMS):
        for number, paths in enumerate(([["fra-1"]], [["local"]], []), 1):
            body = {"x_causeway": {"paths": paths}}
            network.control.result("PATCH", f"{network.control.applications}/{application}", body)
            eventually(lambda number=number: network.done() == number, 40, every_s=0.2)
    assert all(count > 0 for count in (network.settled()["fra-1"], network.settled()["local"]))


def test_an_upgrade_of_an_edge_on_the_way_loses_no_connection(network: Network) -> None:
    port = network.serve("fra-1")
    with socket.create_connection((LOCAL, port), timeout=5) as held:
        assert echoes(held)
        network.fra.upgrade()
        eventually(lambda: "handed over in" in network.fra.output, 30)
        for _ in range(20):
            assert asked(port, LOCAL)
        assert echoes(held)
        reset(held)


def test_a_revoked_edge_gets_and_gives_no_flows_any_more(network: Network) -> None:
    port = network.serve("fra-1", "direct")
    with socket.create_connection((LOCAL, port), timeout=5) as held:
        assert echoes(held)
        network.command("revoke", "fra-1")
        eventually(lambda: network.states()["local"]["overlay"]["peers"] == 1, 10)
        held.settimeout(5)
        with pytest.raises(ConnectionResetError):
            held.recv(1)
    before = network.settled()
    assert asked(port, LOCAL), "the other way"
    assert network.settled() == before


def test_each_edge_records_a_flow_under_the_same_trace(network: Network) -> None:
    port = network.serve("ams-1,fra-1")
    tail = network.programs.start(CAUSEWAY, "tail", "-o", "json", extra_environment=network.steering)

    def is_traced() -> bool:
        assert asked(port, LOCAL)
        closed = [json.loads(line) for line in tail.output.splitlines() if line.endswith("}") and '"closed"' in line]
        traces = [record["trace"] for record in closed if record["trace"]]
        return any(traces.count(trace) == 3 for trace in traces)

    eventually(is_traced, 15, every_s=0.5)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--path", "lhr-1"), "there is no edge 'lhr-1'"),
        (("--path", "fra-1,fra-1"), "goes through an edge twice"),
        (("--path", "Fra-1"), "is not the name of an edge"),
        (("--path", "fra-1", "--carrier", "kernel"), "are for the engine"),
        (("--path", "fra-1", "--path", "fra-1"), "has a path twice"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_with_a_reason(
    make_edge: Callable[..., Running], words: tuple[str, ...], why: str
) -> None:
    edge = make_edge().start()
    steering = {"CAUSEWAY_URL": edge.url, "CAUSEWAY_API_TOKEN": edge.token}
    command = [
        CAUSEWAY,
        "apps",
        "create",
        "--dns",
        f"a.{ZONE}",
        "--protocol",
        "tcp/2222",
        "--origin",
        "127.0.0.1:22",
    ]
    assert edge.applications  # there is a zone
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=30, env=environment(steering))
    assert done.returncode == 1
    assert why in done.stdout + done.stderr
