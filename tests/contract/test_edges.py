"""One control, edges without control of their own, a real nats-server: all of it on addresses of this machine."""

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.echo import ask, echoes, reset, start_echo
from support.edge import CAUSEWAY, ZONE, Running
from support.nats import NatsServer
from support.outpost import Outpost
from support.patience import eventually
from support.ports import free_port
from support.program import Programs, environment, need, run

WITHIN_S = 5.0  # of an answer of the API, everywhere; one is the goal, which make bench-edges holds us to
STAGED_S = 20.0  # where it goes out in stages, after a restart of control too; tests of that are in test_rollouts
FIRST, SECOND = "127.0.0.2", "127.0.0.3"


class Network:
    def __init__(self, programs: Programs, folder: Path, make_edge: Callable[..., Running]) -> None:
        self.programs, self._folder, self._make_edge = programs, folder, make_edge
        self.nats = NatsServer(programs, folder / "nats").start()
        flags = ("--workers", "1", "--rollout-bake-s", "0.5")
        self.control = make_edge("--exchange", self.nats.url, *flags).start()
        self.edges = [self.edge("fra-1", FIRST), self.edge("ams-1", SECOND)]

    def edge(self, name: str, address: str) -> Outpost:
        return Outpost(self.programs, self._folder / name, self.nats.url, name, address)

    def served(self, port: int) -> bool:
        return all(ask(port, edge.address) == b"hello" for edge in self.edges)

    def command(self, *words: str) -> str:
        done = subprocess.run(
            [CAUSEWAY, *words], capture_output=True, text=True, timeout=30,
            env=environment({"CAUSEWAY_URL": self.control.url, "CAUSEWAY_API_TOKEN": self.control.token}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def states(self) -> dict[str, dict[str, Any]]:
        return {edge["name"]: edge for edge in self.control.status()["edges"]}


@pytest.fixture
def network(programs: Programs, tmp_path: Path, make_edge: Callable[..., Running]) -> Iterator[Network]:
    made = Network(programs, tmp_path, make_edge)
    for edge in made.edges:
        edge.start(ready=None)
    for edge in made.edges:
        edge.await_readiness(200)
    yield made


def test_what_the_api_has_answered_is_soon_served_on_every_edge(network: Network) -> None:
    origin = start_echo(network.programs)
    port = free_port()
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    eventually(lambda: network.served(port), WITHIN_S)

    other = start_echo(network.programs, greeting="other ")
    body = {
        "protocol": f"tcp/{port}",
        "dns": {"type": "CNAME", "name": f"app-tcp-{port}.example.com"},
        "origin_direct": [f"tcp://127.0.0.1:{other}"],
    }
    found = network.control.result("GET", f"{network.control.applications}/{application}")
    network.control.result("PUT", f"{network.control.applications}/{application}", {**body, "dns": found["dns"]})
    eventually(lambda: all(ask(port, edge.address).startswith(b"other ") for edge in network.edges), STAGED_S)

    network.control.delete_application(application)
    for edge in network.edges:
        eventually(lambda: not is_open(edge.address, port), STAGED_S)  # noqa: B023
    eventually(lambda: len({state["version"] for state in network.states().values()}) == 1)


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_new_edge_serves_when_it_has_joined(network: Network) -> None:
    port = free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    late = network.edge("lhr-1", "127.0.0.4").start()
    eventually(lambda: ask(port, late.address) == b"hello")
    eventually(lambda: "edge lhr-1 serves snapshot" in network.control.output)


def test_edges_go_on_and_restart_while_control_and_exchange_are_gone_and_are_current_again_after(
    network: Network,
) -> None:
    origin, port, later = start_echo(network.programs), free_port(), free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    eventually(lambda: network.served(port))
    first, second = network.edges
    with socket.create_connection((first.address, port), timeout=5) as held:
        assert echoes(held)
        network.control.kill_all()
        network.nats.kill()
        assert echoes(held), "a connection does not notice"
        assert network.served(port), "nor do new ones"
        second.kill()
        second.start()
        assert network.served(port), "from its disk"
        assert second.told()["is_connected"] is False

        network.nats.start()
        network.control.start()
        network.control.create_application(f"tcp/{later}", f"tcp://127.0.0.1:{origin}")
        eventually(lambda: network.served(later), 5)
        assert echoes(held)
        reset(held)
    assert sum("no connection to" in line for line in first.output.splitlines()) == 1, "said once"


def test_an_edge_that_was_away_takes_what_changed_meanwhile(network: Network) -> None:
    origin, port = start_echo(network.programs), free_port()
    away = network.edges[0]
    assert away.stop() == 0
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    eventually(lambda: ask(port, SECOND) == b"hello", WITHIN_S)
    eventually(lambda: network.states()["fra-1"]["remote"]["is_silent"], 10)
    away.start()
    eventually(lambda: network.served(port), 5)
    eventually(lambda: not network.states()["fra-1"]["remote"]["is_silent"])


def test_a_store_that_was_lost_is_made_anew_and_changes_arrive(network: Network) -> None:
    origin, later = start_echo(network.programs), free_port()
    ports = [free_port() for _ in range(3)]  # revisions of the old store are beyond those of the new one
    for port in ports:
        network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    eventually(lambda: network.served(ports[-1]))
    network.nats.kill()
    shutil.rmtree(network.nats.store)
    network.nats.start()
    network.control.create_application(f"tcp/{later}", f"tcp://127.0.0.1:{origin}")
    eventually(lambda: network.served(later), 10)
    assert all(network.served(port) for port in ports)
    eventually(lambda: all(not state.get("remote", {}).get("trouble") for state in network.states().values()), 10)


def test_a_server_without_jetstream_is_told_and_waited_for(network: Network) -> None:
    network.nats.kill()
    network.nats.has_jetstream = False
    network.nats.start()
    eventually(lambda: "it is tried again" in network.control.output.split("connected to")[-1], 10)
    origin, port = start_echo(network.programs), free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    network.nats.kill()
    network.nats.has_jetstream = True
    network.nats.start()
    eventually(lambda: network.served(port), 15)


def test_an_upgrade_of_an_edge_loses_no_connection_and_the_new_process_hears_of_changes(network: Network) -> None:
    origin, port, later = start_echo(network.programs), free_port(), free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    eventually(lambda: network.served(port))
    edge = network.edges[0]
    with socket.create_connection((edge.address, port), timeout=5) as held:
        assert echoes(held)
        edge.upgrade()
        eventually(lambda: edge.output.count(" serves, version ") == 2, 20)
        assert echoes(held)
        network.control.create_application(f"tcp/{later}", f"tcp://127.0.0.1:{origin}")
        eventually(lambda: network.served(later), 5)
        assert echoes(held)
        reset(held)


def test_the_firewall_and_its_lists_hold_on_every_edge(network: Network) -> None:
    origin, port = start_echo(network.programs), free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}", ip_firewall=True)
    eventually(lambda: network.served(port))
    zone = network.control.applications.split("/")[4]
    content = "127.0.0.0/8\n"
    answer = network.control.http.put("/api/v1/firewall/lists/home?private=allow", content=content)
    assert answer.status_code == 200, answer.text
    rule = {"mode": "block", "configuration": {"target": "list", "value": "home"}, "x_causeway": {}}
    network.control.result("POST", f"/client/v4/zones/{zone}/firewall/access_rules/rules", rule)
    for edge in network.edges:
        eventually(lambda: is_cut(edge.address, port), 5)  # noqa: B023
    rules = "/api/v1/firewall/rules"
    eventually(lambda: network.control.result("GET", rules)[0]["x_causeway"]["hits"] >= 2, 5)

    lost = network.edges[0]
    lost.stop()
    lost.forget()
    lost.start(ready=None)
    eventually(lambda: is_cut(lost.address, port), 15)
    eventually(lambda: not network.states()["fra-1"]["remote"]["trouble"], 10)


def test_events_counters_and_hits_are_of_all_edges(network: Network) -> None:
    origin, port = start_echo(network.programs), free_port()
    application = network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}", ip_firewall=True)
    eventually(lambda: network.served(port))
    with network.control.http.stream("GET", "/api/v1/tail?follow=true") as lines:
        following = lines.iter_lines()
        assert next(following) == ""  # it listens
        for edge in network.edges:
            assert ask(port, edge.address) == b"hello"
        seen: set[str] = set()
        while len(seen) < 2:
            line = next(following)
            if line and (event := json.loads(line))["kind"] == "disconnect":
                seen.add(event["edge"].rpartition(":")[0])
        assert seen == {FIRST, SECOND}
    assert {event["edge"].rpartition(":")[0] for event in network.control.events(application)} == {FIRST, SECOND}
    asked = sum(ask(port, edge.address) == b"hello" for edge in network.edges for _ in range(5))
    assert asked == 10
    eventually(lambda: network.control.counters(application)["connections_total"] >= asked, 5)


def is_cut(address: str, port: int) -> bool:
    try:
        return ask(port, address) == b""
    except ConnectionResetError:
        return True


def test_each_edge_is_a_line_and_says_what_is_the_matter(network: Network) -> None:
    def shown() -> str:
        return network.command("edges")

    eventually(lambda: shown().count("serving") == 3)
    network.edges[1].stop()
    eventually(lambda: "silent for" in shown().split("ams-1")[1].splitlines()[0], 15)
    assert FIRST in shown()


def test_a_drained_edge_serves_nobody_new_until_that_is_undone_also_after_a_restart_of_control(
    network: Network,
) -> None:
    origin, port = start_echo(network.programs), free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    eventually(lambda: network.served(port))
    drained, other = network.edges
    with socket.create_connection((drained.address, port), timeout=5) as held:
        assert echoes(held)
        network.control.result("PUT", "/api/v1/edges/fra-1", {"drained": True})
        eventually(lambda: not is_open(drained.address, port), WITHIN_S)
        assert echoes(held), "it may end by itself"
        assert ask(port, other.address) == b"hello"
        assert network.states()["fra-1"]["remote"]["is_drained"] is True
        network.control.restart()
        eventually(lambda: len(network.states()) == 3)
        assert not is_open(drained.address, port)
        network.control.result("PUT", "/api/v1/edges/fra-1", {"drained": False})
        eventually(lambda: network.served(port), 5)
        reset(held)
    answer = network.control.http.put("/api/v1/edges/nowhere", json={"drained": True})
    assert answer.status_code == 404
    assert "those that have reported are ams-1, fra-1" in answer.json()["errors"][0]["message"]
    answer = network.control.http.put("/api/v1/edges/fra-1", json={"drained": "yes"})
    assert answer.status_code == 400


def test_a_pop_is_drained_as_a_whole_or_not_at_all(network: Network) -> None:
    third = network.edge("fra-2", "127.0.0.4").start()
    origin, port, alone = start_echo(network.programs), free_port(), free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    there = {"type": "static", "ips": [third.address]}
    dns = {"type": "ADDRESS", "name": f"alone.{ZONE}"}
    network.control.create_application(f"tcp/{alone}", f"tcp://127.0.0.1:{origin}", dns=dns, edge_ips=there)
    edges = [*network.edges, third]
    eventually(lambda: all(is_open(edge.address, port) for edge in edges) and is_open(third.address, alone), 20)

    def shown() -> list[tuple[str, list[str]]]:
        found = network.control.result("GET", "/api/v1/pops")
        return [(pop["name"], [f"{edge['name']} {edge['state']}" for edge in pop["edges"]]) for pop in found]

    assert shown() == [
        ("ams", ["ams-1 serving"]),
        ("fra", ["fra-1 serving", "fra-2 serving"]),
        ("local", ["local serving"]),
    ]
    refused = network.control.http.put("/api/v1/pops/fra", json={"drained": True})
    assert refused.status_code == 400 and "no edge without PoP fra" in refused.json()["errors"][0]["message"]
    assert ("fra", ["fra-1 serving", "fra-2 serving"]) in shown()
    assert "PoP fra (fra-1, fra-2) serves nobody" in network.command("pops", "drain", "fra", "--force")
    eventually(lambda: not any(is_open(edge.address, port) for edge in (network.edges[0], third)), WITHIN_S)
    assert ("fra", ["fra-1 drained", "fra-2 drained"]) in shown()
    assert ask(port, network.edges[1].address) == b"hello"
    assert network.control.result("PUT", "/api/v1/pops/fra", {"drained": False})["edges"] == ["fra-1", "fra-2"]
    eventually(lambda: is_open(third.address, alone), WITHIN_S)
    missing = network.control.http.put("/api/v1/pops/nyc", json={"drained": True})
    assert missing.status_code == 404 and "there are ams, fra" in missing.json()["errors"][0]["message"]


def test_an_edge_that_is_stopped_is_seen_draining_until_it_ends(network: Network) -> None:
    port = free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    eventually(lambda: network.served(port))
    edge = network.edges[0]
    assert edge.program
    with socket.create_connection((edge.address, port), timeout=5) as held:
        assert echoes(held)
        edge.program.send(signal.SIGTERM)
        before = eventually(lambda: (state := network.states()["fra-1"])["is_draining"] and state)
        state = eventually(lambda: (now := network.states()["fra-1"])["uptime_s"] > before["uptime_s"] + 3 and now, 10)
        assert state["remote"]["is_silent"] is False and state["totals"]["connections_open"] == 1
        assert echoes(held)
        reset(held)
    assert edge.program.wait() == 0


def pinned(name: str, port: int, address: str, origin: int) -> dict[str, Any]:
    """An application on one address alone, as the API takes it."""
    return {
        "protocol": f"tcp/{port}",
        "dns": {"type": "ADDRESS", "name": f"{name}.example.net"},
        "origin_direct": [f"tcp://127.0.0.1:{origin}"],
        "edge_ips": {"type": "static", "ips": [address]},
    }


def test_an_application_of_one_edge_alone_is_served_there_and_nowhere_else(network: Network) -> None:
    control, (fra, ams) = network.control, network.edges
    origin, port, later = start_echo(network.programs), free_port(), free_port()
    eventually(lambda: len(network.states()) == 3)
    made = control.result("POST", control.applications, pinned("fra", port, FIRST, origin))
    eventually(lambda: ask(port, fra.address) == b"hello", WITHIN_S)
    assert not is_open(ams.address, port) and not is_open("127.0.0.1", port)
    [seen] = [one for one in control.result("GET", "/api/v1/applications") if one["id"] == made["id"]]
    assert [(one["address"], one["state"]) for one in seen["listeners"]] == [(FIRST, "running")]
    assert seen["unserved"] is None

    control.result("POST", control.applications, pinned("ams", port, SECOND, origin))
    eventually(lambda: ask(port, ams.address) == b"hello", WITHIN_S)
    everywhere = {"dns": {"type": "CNAME", "name": "late.example.net"}, "edge_ips": {"type": "dynamic"}}
    for code, body in (
        (13002, pinned("late", port, FIRST, origin)),
        (13002, pinned("late", port, FIRST, origin) | everywhere),
        (11019, pinned("late", later, "192.0.2.9", origin)),
    ):
        answer = control.http.post(control.applications, json=body)
        assert [error["code"] for error in answer.json()["errors"]] == [code], answer.text

    control.restart()
    control.result("PUT", f"{control.applications}/{made['id']}", pinned("fra", later, FIRST, origin))
    eventually(lambda: ask(later, fra.address) == b"hello", STAGED_S)
    eventually(lambda: not is_open(fra.address, port))
    control.delete_application(made["id"])
    eventually(lambda: not is_open(fra.address, later), STAGED_S)
    assert ask(port, ams.address) == b"hello"


def test_status_shows_every_edge_to_people(network: Network) -> None:
    eventually(lambda: len(network.states()) == 3)
    done = subprocess.run(
        [CAUSEWAY, "status"], capture_output=True, text=True, timeout=30,
        env=environment({"CAUSEWAY_URL": network.control.url, "CAUSEWAY_API_TOKEN": network.control.token}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in ("edge local", "edge fra-1", "edge ams-1", FIRST, SECOND):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--join", "nats://192.0.2.1:4222", "--name", "fra-1"), "is not encrypted"),
        (("--join", "nats://127.0.0.1:4222", "--name", "Frankfurt!"), "such as fra-1"),
        (("--join", "nats://127.0.0.1:4222", "--name", "local"), "not local"),
        (("--join", "http://127.0.0.1:4222", "--name", "fra-1"), "is not like tls://"),
        (("--join", "nats://me:secret@127.0.0.1:4222", "--name", "fra-1"), "--exchange-token-file"),
        (("--join", "nats://127.0.0.1:4222", "--name", "fra-1", "--exchange-token-file", "/dev/null"), "is empty"),
        (("--join", "nats://127.0.0.1:4222", "--name", "fra-1", "--exchange-token-file", "/nowhere"), "cannot be read"),
        (("--join", "tls://127.0.0.1:4222", "--name", "fra-1", "--exchange-ca", "/nowhere"), "is no file"),
    ],
)
def test_a_way_to_control_that_is_none_is_refused_at_the_start(flags: tuple[str, ...], why: str) -> None:
    done = subprocess.run([CAUSEWAY, "edge", *flags], capture_output=True, text=True, timeout=30, env=environment())
    assert done.returncode == 2, done.stderr
    assert why in done.stderr
    assert "secret" not in done.stderr


def test_flags_of_the_exchange_are_refused_where_there_is_none() -> None:
    for flags in (("--exchange-plain",), ("--exchange-ca", "x"), ("--exchange-token-file", "x")):
        done = subprocess.run([CAUSEWAY, "up", *flags], capture_output=True, text=True, timeout=30, env=environment())
        assert done.returncode == 2
        assert f"{flags[0]} is for --exchange or --join" in done.stderr


def test_a_token_lets_in_and_a_wrong_one_does_not(programs: Programs, tmp_path: Path) -> None:
    server = NatsServer(programs, tmp_path / "nats", "--auth", "right").start()
    token = tmp_path / "token"
    token.write_text("wrong\n")
    edge = Outpost(programs, tmp_path / "edge", server.url, "fra-1", FIRST, "--exchange-token-file", str(token))
    edge.start(ready=503)
    eventually(lambda: "no connection to" in edge.output, 10)
    assert "wrong" not in edge.output
    token.write_text("right\n")
    edge.stop()
    edge.start(ready=503)
    eventually(lambda: edge.told()["is_connected"], 10)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    need("openssl")
    folder.mkdir(exist_ok=True)
    made, key = folder / f"{name}.crt", folder / f"{name}.key"
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", made,
    )  # fmt: skip
    return made, key


def test_over_tls_the_server_has_to_prove_who_it_is(programs: Programs, tmp_path: Path) -> None:
    ours, key = certificate(tmp_path / "ca", "ours")
    others, _ = certificate(tmp_path / "ca", "others")
    server = NatsServer(programs, tmp_path / "nats", "--tls", "--tlscert", str(ours), "--tlskey", str(key)).start()
    url = server.url.replace("nats://", "tls://")
    known = Outpost(programs, tmp_path / "known", url, "fra-1", FIRST, "--exchange-ca", str(ours)).start(ready=503)
    eventually(lambda: known.told()["is_connected"], 10)
    unknown = Outpost(programs, tmp_path / "unknown", url, "fra-2", SECOND, "--exchange-ca", str(others))
    unknown.start(ready=503)
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in unknown.output, 10)
    assert unknown.told()["is_connected"] is False


def test_who_was_told_to_use_tls_does_not_speak_without(programs: Programs, tmp_path: Path) -> None:
    ours, _ = certificate(tmp_path / "ca", "ours")
    server = NatsServer(programs, tmp_path / "nats").start()
    url = server.url.replace("nats://", "tls://")
    edge = Outpost(programs, tmp_path / "edge", url, "fra-1", FIRST, "--exchange-ca", str(ours)).start(ready=503)
    eventually(lambda: "does not offer TLS" in edge.output, 10)
    assert edge.told()["is_connected"] is False
