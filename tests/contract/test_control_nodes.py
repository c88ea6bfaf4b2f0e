"""Several control nodes over PostgreSQL: one leads, another takes over, and two never say different things to edges."""

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import httpx
import pytest
from support.control import LEADS_S, ControlNode, History
from support.dig import dig
from support.echo import ask, start_echo
from support.edge import CAUSEWAY, Running
from support.forwarder import Forwarder
from support.meanwhile import again_and_again
from support.nats import NatsServer
from support.outpost import Outpost
from support.patience import eventually
from support.ports import free_port
from support.postgres import PostgresServer, postgres_server
from support.program import Programs, need, run

ADDRESS, SECOND = "127.0.0.2", "127.0.0.3"


class Network:
    """Two control nodes, each with ways of its own to the database and to the exchange, and one edge."""

    def __init__(self, programs: Programs, folder: Path, postgres: PostgresServer) -> None:
        self.programs = programs
        self.nats = NatsServer(programs, folder / "nats").start()
        self.origin = start_echo(programs)
        self.to_database = {name: Forwarder(postgres.port) for name in ("ams", "fra")}
        self.to_exchange = {name: Forwarder(self.nats.port) for name in ("ams", "fra")}
        url = postgres.database()
        self.ams, self.fra = (
            ControlNode(
                programs,
                folder / name,
                name,
                url.replace(f":{postgres.port}/", f":{self.to_database[name].port}/"),
                f"nats://127.0.0.1:{self.to_exchange[name].port}",
            )
            for name in ("ams", "fra")
        )
        self.edge = Outpost(programs, folder / "e1", self.nats.url, "e1", ADDRESS)
        self.history = History(self.nats.url)

    def start(self) -> "Network":
        """`ams` leads, `fra` stands by."""
        self.ams.start()
        self.ams.await_lead()
        self.fra.start()
        self.edge.start(ready=None)
        return self

    def close(self) -> None:
        for way in (*self.to_database.values(), *self.to_exchange.values()):
            way.close()
        for node in (self.ams, self.fra):
            node.close()

    def create(self, node: ControlNode) -> int:
        """An application, once the edge serves it; answers its port."""
        port = free_port()
        node.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{self.origin}")
        self.serves(port)
        return port

    def serves(self, port: int) -> None:
        eventually(lambda: ask(port, ADDRESS) == b"hello", 15)


def is_let_in(port: int, source: str) -> bool:
    with suppress(OSError), socket.create_connection((ADDRESS, port), 2, (source, 0)) as connection:
        connection.sendall(b"hello")
        return connection.recv(5) == b"hello"
    return False


@pytest.fixture
def network(programs: Programs, tmp_path: Path, postgres: PostgresServer) -> Iterator[Network]:
    made = Network(programs, tmp_path, postgres)
    try:
        with made.history:
            yield made.start()
    finally:
        made.close()


def test_one_leads_and_the_other_answers_what_is_read_and_says_where_to_write(network: Network) -> None:
    ams, fra = network.ams, network.fra
    port = network.create(ams)
    assert (ams.leads, fra.leads) == (True, False)

    def is_known() -> bool:
        return [one["protocol"] for one in fra.result("GET", fra.applications)] == [f"tcp/{port}"]

    eventually(is_known)
    eventually(lambda: [edge["name"] for edge in fra.status()["edges"]] == ["e1"])
    refused = fra.http.post("/client/v4/zones", json={"name": "other.net"})
    [error] = refused.json()["errors"]
    assert (refused.status_code, error["code"]) == (503, 19008)
    assert f"ams does, ask {ams.url}" in error["message"]
    for known_to_one in ("/api/v1/routes", "/api/v1/routes/gains"):
        assert ams.result("GET", known_to_one) == []
        asked = fra.http.get(known_to_one)
        assert (asked.status_code, asked.json()["errors"][0]["code"]) == (503, 19008)
        assert f"ams does, ask {ams.url}" in asked.json()["errors"][0]["message"]
    assert [zone["name"] for zone in ams.result("GET", "/client/v4/zones")] == ["example.net"]
    made = ams.result("POST", "/api/v1/tokens", {"name": "ci", "scope": "read"})
    with fra.client(made["value"]) as reader:
        eventually(lambda: reader.get("/client/v4/zones").status_code == 200)
        ams.result("DELETE", f"/api/v1/tokens/{made['id']}")
        eventually(lambda: reader.get("/client/v4/zones").status_code != 200)
    leads = {node.name: httpx.get(f"{node.url}/leadz", trust_env=False) for node in (ams, fra)}
    assert {name: answer.status_code for name, answer in leads.items()} == {"ams": 200, "fra": 503}
    assert "ams does" in leads["fra"].json()["reason"]
    told = fra.control()
    assert (told["leader"], told["leader_url"], told["node"]) == ("ams", ams.url, "fra")
    assert {node["name"] for node in told["nodes"]} == {"ams", "fra"}


def test_the_leader_is_killed_and_the_other_one_leads(network: Network) -> None:
    before = network.create(network.ams)
    network.ams.kill_all()
    assert ask(before, ADDRESS) == b"hello"
    assert network.fra.await_lead() == 2
    after = network.create(network.fra)
    assert (ask(before, ADDRESS), ask(after, ADDRESS)) == (b"hello", b"hello")
    network.ams.start()
    eventually(lambda: network.ams.control()["leader"] == "fra")
    assert not network.ams.leads
    network.history.check("e1")


def test_a_leader_that_is_stopped_in_order_gives_the_lease_back(network: Network) -> None:
    network.create(network.ams)
    assert network.ams.stop() == 0
    eventually(lambda: network.fra.leads, 4.0)
    network.create(network.fra)


def test_a_leader_that_stood_still_writes_nothing_when_it_goes_on(network: Network) -> None:
    ams, fra = network.ams, network.fra
    network.create(ams)
    ams.signal_all(signal.SIGSTOP)
    fra.await_lead()
    network.create(fra)
    ams.signal_all(signal.SIGCONT)
    refused = ams.http.post("/client/v4/zones", json={"name": "stale.net"})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (503, 19008)
    eventually(lambda: ams.control()["leader"] == "fra")
    assert not ams.leads
    network.create(fra)
    assert "stale.net" not in [zone["name"] for zone in fra.result("GET", "/client/v4/zones")]
    assert {put.term for put in network.history.puts} == {1, 2}
    network.history.check("e1")


def test_what_was_acknowledged_is_there_after_leaders_have_come_and_gone(network: Network) -> None:
    """Both are asked to write, all the time, while now one and now the other stands still."""
    nodes = (network.ams, network.fra)
    account = network.ams.result("GET", "/client/v4/accounts")[0]["id"]
    network.create(network.ams)
    acknowledged: list[str] = []
    numbers = count()

    def write() -> None:
        for node in nodes:
            name = f"n{next(numbers)}.net"
            with suppress(httpx.HTTPError), node.client() as http:
                body = {"name": name, "account": {"id": account}}
                if http.post("/client/v4/zones", json=body, timeout=1.0).status_code == 200:
                    acknowledged.append(name)

    with again_and_again(write):
        for term, (leader, other) in enumerate((nodes, nodes[::-1]), start=1):
            eventually(lambda leader=leader: leader.leads, LEADS_S)
            known = len(acknowledged)
            eventually(lambda known=known: len(acknowledged) > known + 5, LEADS_S)
            leader.signal_all(signal.SIGSTOP)
            try:
                assert other.await_lead() == term + 1
                known = len(acknowledged)
                eventually(lambda known=known: len(acknowledged) > known + 5, LEADS_S)
            finally:
                leader.signal_all(signal.SIGCONT)
    network.create(network.ams)
    stored, page = set[str](), 0
    while found := network.ams.result("GET", f"/client/v4/zones?per_page=50&page={(page := page + 1)}"):
        stored |= {zone["name"] for zone in found}
    assert set(acknowledged) <= stored
    network.history.check("e1")


def test_a_new_process_of_a_node_takes_over_from_the_one_before(network: Network) -> None:
    network.create(network.ams)
    before = network.ams.serving_pid
    network.ams.program.send(signal.SIGHUP)  # type: ignore[union-attr]
    eventually(lambda: network.ams.serving_pid != before, 20)
    eventually(lambda: network.ams.leads or network.fra.leads, LEADS_S)
    network.create(network.ams if network.ams.leads else network.fra)
    network.history.check("e1")


def test_a_rollout_goes_on_under_the_next_leader(network: Network, tmp_path: Path) -> None:
    ams, fra, port = network.ams, network.fra, free_port()
    origin, other = f"tcp://127.0.0.1:{network.origin}", start_echo(network.programs, greeting="other ")
    Outpost(network.programs, tmp_path / "e2", network.nats.url, "e2", SECOND).start(ready=None)
    eventually(lambda: len(ams.status()["edges"]) == 2, 20)
    application = ams.create_application(f"tcp/{port}", origin)
    for address in (ADDRESS, SECOND):
        eventually(lambda address=address: ask(port, address) == b"hello", 15)
    ams.result("PATCH", f"{ams.applications}/{application}", {"origin_direct": [f"tcp://127.0.0.1:{other}"]})
    eventually(lambda: ask(port, ADDRESS) == b"other hello", 15, every_s=0.005)
    ams.kill_all()
    assert ask(port, SECOND) == b"hello", "which was to wait for its stage"
    fra.await_lead()
    eventually(lambda: ask(port, SECOND) == b"other hello", 20)
    eventually(lambda: [one["state"] for one in fra.result("GET", "/api/v1/rollouts")] == ["done"], 20)
    network.history.check("e1", "e2")


def test_lists_of_the_firewall_are_taken_without_an_edge_and_hold_under_the_next_leader(network: Network) -> None:
    ams, fra, port = network.ams, network.fra, free_port()
    assert ams.http.put("/api/v1/firewall/lists/bad", content=b"192.0.2.0/33").status_code == 400
    assert ams.http.put("/api/v1/firewall/lists/here?private=allow", content=b"127.0.0.77\n").status_code == 200
    ams.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{network.origin}", ip_firewall=True)
    network.serves(port)
    zone = ams.result("GET", "/client/v4/zones")[0]["id"]
    rules = f"/client/v4/zones/{zone}/firewall/access_rules/rules"
    ams.result("POST", rules, {"mode": "block", "configuration": {"target": "list", "value": "here"}})
    eventually(lambda: not is_let_in(port, "127.0.0.77"))
    assert is_let_in(port, "127.0.0.78")
    ams.kill_all()
    fra.await_lead()
    assert fra.http.put("/api/v1/firewall/lists/here?private=allow", content=b"127.0.0.78\n").status_code == 200
    eventually(lambda: not is_let_in(port, "127.0.0.78"), 10)
    assert is_let_in(port, "127.0.0.77")
    [said] = fra.result("GET", "/api/v1/firewall/explain?address=127.0.0.78")["applications"]
    assert said["verdict"] == "block", said


def test_one_address_in_front_of_all_nodes_takes_changes_whoever_leads(network: Network, tmp_path: Path) -> None:
    """By the configuration on the page."""
    need("haproxy")
    page = (Path(__file__).parents[2] / "docs/control.md").read_text()
    backend = page.split("```\nbackend")[1].split("```")[0]
    for name, node in (("10.8.0.1:8787", network.ams), ("10.8.0.2:8787", network.fra)):
        assert name in backend
        backend = backend.replace(name, f"127.0.0.1:{node.api_port}")
    port, file = free_port(), tmp_path / "haproxy.cfg"
    times = "timeout connect 2s\n    timeout client 20s\n    timeout server 20s"
    front = f"frontend api\n    bind 127.0.0.1:{port}\n    default_backend causeway"
    file.write_text(f"defaults\n    mode http\n    {times}\n{front}\nbackend{backend}")
    network.programs.start("haproxy", "-f", file)
    account = {"id": network.ams.result("GET", "/client/v4/accounts")[0]["id"]}

    def is_created(name: str) -> bool:
        with network.fra.client() as http:
            answer = http.post(f"http://127.0.0.1:{port}/client/v4/zones", json={"name": name, "account": account})
        return answer.status_code == 200

    eventually(lambda: is_created("before.net"), 10)
    network.ams.kill_all()
    eventually(lambda: is_created("after.net"), LEADS_S + 5)
    assert {zone["name"] for zone in network.fra.result("GET", "/client/v4/zones")} >= {"before.net", "after.net"}


def test_nodes_go_on_when_the_database_was_gone(programs: Programs, tmp_path: Path) -> None:
    with postgres_server(programs) as postgres:
        nats, database = NatsServer(programs, tmp_path / "nats").start(), postgres.database()
        ams, fra = (ControlNode(programs, tmp_path / name, name, database, nats.url) for name in ("ams", "fra"))
        ams.start().await_lead()
        fra.start()
        edge = Outpost(programs, tmp_path / "e1", nats.url, "e1", ADDRESS).start(ready=None)
        port = free_port()
        ams.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
        eventually(lambda: ask(port, ADDRESS) == b"hello", 15)
        postgres.stop()
        eventually(lambda: not ams.leads and fra.readiness().status_code == 503, LEADS_S)
        assert ask(port, ADDRESS) == b"hello"
        assert ams.http.get("/leadz").status_code == 503
        postgres.start()
        leader = eventually(lambda: next((node for node in (ams, fra) if node.leads), None), LEADS_S)
        assert leader
        port = free_port()
        leader.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
        eventually(lambda: ask(port, ADDRESS) == b"hello", 15)
        assert edge.told()["is_connected"]
        ams.close()
        fra.close()


@pytest.mark.parametrize("how", ["cut", "swallow"])
def test_a_leader_without_the_database_stops_to_lead(network: Network, how: str) -> None:
    ams, fra = network.ams, network.fra
    before = network.create(ams)
    getattr(network.to_database["ams"], how)()
    eventually(lambda: not ams.leads, LEADS_S)
    fra.await_lead()
    network.create(fra)
    refused = ams.http.post("/client/v4/zones", json={"name": "other.net"})
    assert refused.status_code == 503
    assert ams.http.get("/client/v4/zones").status_code == 503, "nobody waits for ever"
    assert ask(before, ADDRESS) == b"hello"
    network.to_database["ams"].mend()
    eventually(lambda: ams.control()["leader"] == "fra", LEADS_S)
    eventually(lambda: len(ams.result("GET", ams.applications)) == 2, LEADS_S)
    network.history.check("e1")


def test_a_leader_without_the_exchange_leaves_it_to_one_that_has_it(network: Network) -> None:
    ams, fra = network.ams, network.fra
    network.create(ams)
    network.to_exchange["ams"].cut()
    fra.await_lead()
    network.create(fra)
    network.to_exchange["ams"].mend()
    assert not ams.leads
    network.history.check("e1")


def test_without_any_exchange_the_leader_stays_and_takes_changes(network: Network) -> None:
    ams = network.ams
    network.create(ams)
    network.nats.kill()
    eventually(lambda: not any(node["is_connected"] for node in ams.control()["nodes"]), LEADS_S)
    port = free_port()
    ams.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{network.origin}")
    assert ams.leads
    network.nats.start()
    network.serves(port)


def test_edges_do_not_notice_that_the_database_begins_anew_with_its_terms(
    network: Network, postgres: PostgresServer
) -> None:
    """As after a restore of an older backup."""
    network.create(network.ams)
    network.ams.kill_all()
    network.fra.await_lead()
    network.create(network.fra)
    name = str(network.fra.flags[network.fra.flags.index("--database") + 1]).partition("?")[0].rpartition("/")[2]
    network.fra.stop()
    postgres.do("UPDATE control_lease SET token = 0, writes = 0, expires_unix_s = 0", name)
    network.fra.start()
    eventually(lambda: int(network.fra.control()["term"]) > 2, LEADS_S)
    network.create(network.fra)


def test_one_control_without_a_database_server_keeps_its_own(programs: Programs, tmp_path: Path) -> None:
    nats = NatsServer(programs, tmp_path / "nats").start()
    origin = start_echo(programs)
    node = ControlNode(programs, tmp_path / "control", "alone", None, nats.url).start()
    Outpost(programs, tmp_path / "e1", nats.url, "e1", ADDRESS).start(ready=None)
    port = free_port()
    node.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{origin}")
    eventually(lambda: ask(port, ADDRESS) == b"hello", 15)
    assert [edge["name"] for edge in node.status()["edges"]] == ["e1"]
    assert node.status()["control"] is None
    assert node.restart().status()["applications"] == 1
    node.close()


def test_what_one_machine_has_stored_is_the_beginning_of_several_nodes(
    programs: Programs, tmp_path: Path, postgres: PostgresServer, make_edge: Callable[..., Running]
) -> None:
    nats, database = NatsServer(programs, tmp_path / "nats").start(), postgres.database()
    up, port = make_edge("--exchange", nats.url, "--workers", "1").start(), free_port()
    edge = Outpost(programs, tmp_path / "e1", nats.url, "e1", ADDRESS).start(ready=None)
    application = up.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    eventually(lambda: ask(port, ADDRESS) == b"hello", 15)
    copying = (CAUSEWAY, "copy-database", "--data-dir", up.data_dir, "--database", database)
    refused = subprocess.run(copying, capture_output=True, text=True, check=False)
    assert (refused.returncode, "in use by another causeway" in refused.stderr) == (1, True), refused.stderr
    up.stop()
    assert b"copied 1 zones, 1 applications" in run(*copying)

    ams = ControlNode(programs, up.data_dir, "ams", database, nats.url).start()
    ams.await_lead()
    assert ask(port, ADDRESS) == b"hello"
    assert [one["id"] for one in ams.result("GET", ams.applications)] == [application]
    eventually(lambda: [one["name"] for one in ams.status()["edges"]] == ["e1"])
    eventually(lambda: not ams.status()["edges"][0]["remote"]["trouble"])
    ams.delete_application(application)
    eventually(lambda: not is_let_in(port, "127.0.0.1"), 15)
    assert edge.told()["is_connected"]
    ams.close()


def test_every_node_answers_names_with_the_edges_that_serve_them(
    programs: Programs, tmp_path: Path, postgres: PostgresServer
) -> None:
    need("dig")
    nats, database = NatsServer(programs, tmp_path / "nats").start(), postgres.database()
    ports = {name: free_port() for name in ("ams", "fra")}
    ams, fra = (
        ControlNode(programs, tmp_path / name, name, database, nats.url, "--dns", f"127.0.0.1:{ports[name]}")
        for name in ports
    )
    ams.start().await_lead()
    fra.start()
    Outpost(programs, tmp_path / "e1", nats.url, "e1", ADDRESS).start(ready=None)

    def is_everywhere(name: str, *but: str) -> bool:
        return all(dig(port, name).addresses == [ADDRESS] for node, port in ports.items() if node not in but)

    port = free_port()
    ams.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    eventually(lambda: is_everywhere(f"app-tcp-{port}.example.net"), 15)
    ams.kill_all()
    fra.await_lead()
    port = free_port()
    fra.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    eventually(lambda: is_everywhere(f"app-tcp-{port}.example.net", "ams"), 15)
    ams.close()
    fra.close()


def test_nodes_of_a_network_that_certifies_its_edges_share_its_keys(
    programs: Programs, tmp_path: Path, postgres: PostgresServer
) -> None:
    need("nats-server")
    exchange, database = f"tls://127.0.0.1:{free_port()}", postgres.database()
    ams, fra = (ControlNode(programs, tmp_path / name, name, database, exchange) for name in ("ams", "fra"))
    ams.start().await_lead()
    programs.start("nats-server", "-c", ams.data_dir / "exchange/nats.conf", "-a", "127.0.0.1")
    invitation = tmp_path / "e1.join"
    invitation.write_text(json.dumps(ams.result("POST", "/api/v1/edges/e1/invitation")))
    invitation.chmod(0o600)
    edge = Outpost(programs, tmp_path / "e1", str(invitation), "e1", ADDRESS).start(ready=None)
    eventually(lambda: [one["name"] for one in ams.status()["edges"]] == ["e1"], 20)

    fra.start(ready=503)
    assert "copy authority.json" in fra.control()["trouble"]
    fra.stop()
    shutil.copy(ams.data_dir / "exchange/authority.json", fra.data_dir / "exchange/authority.json")
    fra.start()
    ams.kill_all()
    fra.await_lead()
    port = free_port()
    fra.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    eventually(lambda: ask(port, ADDRESS) == b"hello", 20)
    fra.result("DELETE", "/api/v1/edges/e1")
    eventually(lambda: not edge.told()["is_connected"], 20)
    ams.close()
    fra.close()
