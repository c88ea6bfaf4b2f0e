"""The command line against a real server: what a newcomer types, and what a script relies on."""

import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.ports import free_port

from causeway.client import Client

ROOT = Path(__file__).parents[2]
PROGRAM = str(Path(sys.executable).with_name("causeway"))
ANSWER_S = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What one command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def eventually(claim: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + ANSWER_S
    while not claim():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.05)


class Server:
    """`causeway up` in a folder of its own, and the command line pointed at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.start()

    def start(self) -> None:
        address = self.url.removeprefix("http://")
        with (self.folder / "log").open("ab") as log:
            command = [PROGRAM, "up", "--api", address, "--workers", "1"]
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment(), stdout=log, stderr=log)
        eventually(self.is_ready, f"/readyz of {self.url}: {(self.folder / 'log').read_text()}")

    def is_ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(timeout=ANSWER_S)

    def run(self, *arguments: str, text: str | None = None, **more: str) -> Answer:
        done = subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env=environment(**{"CAUSEWAY_URL": self.url} | more),
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, **more: str) -> Answer:
        answer = self.run(*arguments, **more)
        assert answer.code == 0, answer.err
        return answer

    def client(self) -> Client:
        return Client(self.url, (self.folder / "causeway-data/token").read_text().strip())

    def applications(self) -> list[str]:
        with self.client() as client:
            zones = [zone["id"] for zone in client.zones()]
            return [a["dns"]["name"] for zone_id in zones for a in client.applications(zone_id)]


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("CAUSEWAY_")} | more


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("causeway"))
    try:
        started.ok("zones", "create", "example.net")
        yield started
    finally:
        if started.process.poll() is None:
            assert started.stop() == 0


@pytest.fixture(autouse=True)
def _leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        server: Server = request.getfixturevalue("server")
        with server.client() as client:
            for zone in client.zones():
                for application in client.applications(zone["id"]):
                    client.delete_application(zone["id"], application["id"])


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


@pytest.fixture
def origin() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upper) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
        connection.sendall(b"hello\n")
        return connection.makefile("rb").readline()


def test_a_newcomer_gets_a_connection_through_changes_it_and_takes_it_away(server: Server, origin: int) -> None:
    port = free_port()
    made = server.ok("apps", "create", "--dns", "up", "--protocol", f"tcp/{port}", "--origin", f"127.0.0.1:{origin}")
    assert "created up.example.net" in made.out
    assert f"127.0.0.1:{port}" in made.out
    assert ask(port) == b"HELLO\n"

    listed = server.ok("apps", "list").out
    assert "up.example.net" in listed
    assert "running" in listed

    changed = server.ok("apps", "update", "up", "--name", "shouting", "--idle-timeout", "5m")
    assert "x_causeway.name" in changed.out
    shown = server.ok("apps", "show", "shouting", "-o", "json").json
    assert (shown["x_causeway"]["name"], shown["x_causeway"]["idle_timeout_s"]) == ("shouting", 300)
    assert f"127.0.0.1:{port}/tcp" in server.ok("apps", "show", "up.example.net").out
    assert ask(port) == b"HELLO\n"

    assert "deleted up.example.net" in server.ok("apps", "delete", shown["id"][:8]).out
    with pytest.raises(ConnectionRefusedError):
        ask(port)
    assert server.ok("apps", "list", "-o", "json").json == []


def test_a_dry_run_shows_the_difference_and_changes_nothing(server: Server, origin: int) -> None:
    port = free_port()
    arguments = ["--dns", "a", "--protocol", f"tcp/{port}", "--origin", f"127.0.0.1:{origin}"]
    would = server.ok("apps", "create", *arguments, "--dry-run")
    assert f"tcp/{port}" in would.out
    assert server.applications() == []
    with pytest.raises(ConnectionRefusedError):
        ask(port)

    server.ok("apps", "create", *arguments)
    before = server.ok("apps", "show", "a", "-o", "json").json
    would = server.ok("apps", "update", "a", "--proxy-protocol", "v1", "--drain", "5s", "--dry-run", "-o", "json")
    assert {(c["field"], c["after"]) for c in would.json["changes"]} == {
        ("proxy_protocol", "v1"),
        ("x_causeway.drain_s", "5"),
    }
    server.ok("apps", "delete", "a", "--dry-run")
    assert server.ok("apps", "show", "a", "-o", "json").json == before
    assert ask(port) == b"HELLO\n"


def test_what_show_prints_creates_it_again(server: Server, origin: int) -> None:
    port = free_port()
    server.ok(
        *["apps", "create", "--dns", "a", "--protocol", f"tcp/{port}", "--origin", f"127.0.0.1:{origin}"],
        *["--proxy-from", "10.0.0.0/8", "--name", "again"],
    )
    shown = server.ok("apps", "show", "a", "-o", "json")
    server.ok("apps", "delete", "a")
    again = server.run("apps", "create", "-f", "-", "-o", "json", text=shown.out)
    assert again.code == 0, again.err
    same = {key: value for key, value in shown.json.items() if key not in ("id", "created_on", "modified_on")}
    assert {key: again.json[key] for key in same} == same


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("examples/*.*ml")) + sorted(ROOT.glob("examples/*.json")), ids=lambda p: p.name
)
def test_every_example_file_is_accepted(server: Server, path: Path) -> None:
    answer = server.run("apps", "create", "-f", str(path), "--dry-run", "-o", "json")
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("preset", ["ssh", "minecraft", "rdp", "whois", "dns", "iperf"])
def test_every_preset_is_accepted(server: Server, preset: str) -> None:
    answer = server.ok("apps", "create", "--preset", preset, "--origin", "10.0.0.5", "--dry-run", "-o", "json")
    planned = answer.json if isinstance(answer.json, list) else [answer.json]
    assert {item["after"]["dns"]["name"] for item in planned} == {f"{preset}.example.net"}


def test_one_of_several_refused_leaves_none_behind(server: Server) -> None:
    free, taken = free_port(), free_port()
    server.ok("apps", "create", "--dns", "taken", "--protocol", f"tcp/{taken}", "--origin", "10.0.0.1")
    protocols = ["--protocol", f"tcp/{free}", "--protocol", f"tcp/{taken}"]
    refused = server.run("apps", "create", "--dns", "pair", *protocols, "--origin", "10.0.0.2:80")
    assert refused.code == 1
    assert f"undone: pair.example.net tcp/{free}" in refused.err
    assert "13002 (operator)" in refused.err
    assert "taken.example.net" in refused.err
    assert server.applications() == ["taken.example.net"]


def test_a_port_that_somebody_has_is_refused_and_named(server: Server, origin: int) -> None:
    refused = server.run("apps", "create", "--dns", "a", "--protocol", f"tcp/{origin}", "--origin", "10.0.0.1")
    assert refused.code == 1
    assert "13002" in refused.err
    assert str(origin) in refused.err
    assert server.applications() == []


REFUSALS = [  # options                                                          code
    (["--origin", "tcp://169.254.169.254:80"], "11002"),
    (["--origin", "tcp://::1:80"], "11002"),
    (["--origin", "10.0.0.1", "--dns", "a.elsewhere.org"], "16001"),
    (["--origin", "10.0.0.1", "--tls", "strict"], "19001"),
    (["--origin", "10.0.0.1", "--smart-routing", "--carrier", "kernel"], "19002"),
    (["--origin", "10.0.0.1", "--origin-dns", "a.example.org", "--origin-port", "80"], "11000"),
    (["--origin", "10.0.0.1", "--on-delete", "explode"], "19002"),
    (["--origin", "10.0.0.1", "--edge-ip", "192.0.2.77"], "11019"),
]


@pytest.mark.parametrize(("options", "code"), REFUSALS)
def test_what_the_server_refuses_exits_1_with_its_code(server: Server, options: list[str], code: str) -> None:
    refused = server.run("apps", "create", "--dns", "a", "--protocol", f"tcp/{free_port()}", *options)
    assert (refused.code, refused.out) == (1, "")
    assert f"error {code} (operator): " in refused.err
    assert server.applications() == []


def test_exit_codes_tell_refused_wrong_and_unreachable_apart(server: Server) -> None:
    assert server.run("apps", "show", "nothing").code == 1
    assert server.run("apps", "create", "--protocol", "tcp/1").code == 2
    assert server.run("status", CAUSEWAY_URL="http://127.0.0.1:1").code == 3


def test_a_token_may_do_what_its_scope_says_until_it_is_revoked(server: Server) -> None:
    made = server.ok("tokens", "create", "reader", "--scope", "read", "-o", "json").json
    value = made["value"]
    assert value not in server.ok("tokens", "list").out
    assert server.ok("zones", "list", "-o", "json", CAUSEWAY_API_TOKEN=value).json[0]["name"] == "example.net"
    assert server.run("zones", "create", "no.net", CAUSEWAY_API_TOKEN=value).code == 1
    assert "revoked token reader" in server.ok("tokens", "revoke", "reader").out
    refused = server.run("zones", "list", CAUSEWAY_API_TOKEN=value)
    assert refused.code == 1
    assert value not in refused.err


def test_a_zone_with_applications_stays(server: Server) -> None:
    server.ok("zones", "create", "short.net")
    port = free_port()
    server.ok("apps", "create", "--dns", "a.short.net", "--protocol", f"tcp/{port}", "--origin", "10.0.0.1")
    assert server.run("zones", "delete", "short.net").code == 1
    server.ok("apps", "delete", "a.short.net")
    server.ok("zones", "delete", "short.net")
    assert "short.net" not in server.ok("zones", "list").out


def test_status_and_doctor_answer_for_people_and_programs(server: Server) -> None:
    assert "ready" in server.ok("status").out
    assert server.ok("status", "-o", "json").json["ready"] is True
    assert "open_files" in server.ok("doctor").out
    told = {found["name"]: found for found in server.ok("doctor", "-o", "json").json}
    assert all(set(found) == {"name", "available", "detail"} for found in told.values())
    assert told["mitigation"]["available"] is told["guard"]["available"]
    assert "mitigation" in server.ok("status").out


def test_mitigation_is_told_and_switched_and_attacks_are_listed(server: Server) -> None:
    assert "automatic mitigation is on" in server.ok("mitigation").out
    assert "automatic mitigation is off" in server.ok("mitigation", "off").out
    assert server.ok("mitigation", "-o", "json").json["enabled"] is False
    assert server.ok("mitigation", "on", "-o", "json").json["enabled"] is True
    assert server.run("mitigation", "perhaps").code == 2
    assert server.ok("attacks", "-o", "json").json == []
    assert "no attack goes on" in server.ok("attacks", "--active").err
    assert server.run("attacks", "show", "f" * 32).code == 1
    assert server.run("attacks", "show", "feed").code == 1
    assert server.run("attacks", "--app", "nowhere").code == 1


class Tail:
    """`causeway tail -o json` in the background, its lines as they come."""

    def __init__(self, server: Server, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [PROGRAM, "tail", "-o", "json", *arguments],
            cwd=server.folder,
            env=environment(CAUSEWAY_URL=server.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[Any] = []
        self.said: list[str] = []
        self.threads = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _read_events(self) -> None:
        assert self.process.stdout
        self.events.extend(json.loads(line) for line in self.process.stdout)

    def _read_errors(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said.append(line)

    def has(self, kind: str, edge_port: int, count: int = 1) -> bool:
        found = [e for e in self.events if e["kind"] == kind and e["edge"] == f"127.0.0.1:{edge_port}"]
        return len(found) == count

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=ANSWER_S)
        for thread in self.threads:
            thread.join(timeout=ANSWER_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()
        return code


def test_tail_follows_one_application_through_a_restart_of_the_server(tmp_path: Path, origin: int) -> None:
    server = Server(tmp_path)
    seen, other = free_port(), free_port()
    tail = None
    try:
        server.ok("zones", "create", "example.net")
        for name, port in (("seen", seen), ("other", other)):
            server.ok(
                "apps",
                "create",
                "--dns",
                name,
                "--protocol",
                f"tcp/{port}",
                "--origin",
                f"127.0.0.1:{origin}",
            )
        tail = Tail(server, "seen")

        def one_more() -> bool:
            ask(other)
            ask(seen)
            return any(e["kind"] == "disconnect" for e in tail.events)

        eventually(one_more, "a connection shows")
        assert {e["edge"] for e in tail.events} == {f"127.0.0.1:{seen}"}
        assert {e["application_name"] for e in tail.events} == {"seen.example.net"}

        assert server.stop() == 0
        server.start()
        count = len(tail.events)

        def more_after() -> bool:
            ask(seen)
            return len(tail.events) > count

        eventually(more_after, "a connection after the restart shows")
        assert any("trying again" in line for line in tail.said)
    finally:
        code = tail.stop() if tail else 0
        if server.process.poll() is None:
            server.stop()
    assert code == 0


def test_up_is_the_process_that_was_started_and_keeps_applications(tmp_path: Path, origin: int) -> None:
    server = Server(tmp_path)
    port = free_port()
    try:
        assert b"causeway.up" in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert (tmp_path / "causeway-data/token").stat().st_mode & 0o777 == 0o600
        server.ok("zones", "create", "example.net")
        server.ok("apps", "create", "--dns", "a", "--protocol", f"tcp/{port}", "--origin", f"127.0.0.1:{origin}")
        server.stop(signal.SIGKILL)
        server.start()
        eventually(lambda: ask(port) == b"HELLO\n", "the application answers after a kill -9")
    finally:
        if server.process.poll() is None:
            assert server.stop(signal.SIGINT) == 0
        shutil.rmtree(tmp_path / "causeway-data")


def test_a_zone_is_switched_to_smart_routing_and_says_who_stays_direct(server: Server) -> None:
    server.ok("zones", "create", "smart.net")
    server.ok(
        "apps", "create", "--dns", "fast.smart.net", "--protocol", f"tcp/{free_port()}", "--origin", "192.0.2.1:22"
    )
    server.ok(
        "apps", "create", "--dns", "dns.smart.net", "--protocol", f"udp/{free_port()}", "--origin", "192.0.2.1:53"
    )
    told = server.ok("zones", "update", "smart.net", "--smart-routing")
    assert "smart routing is on for zone smart.net" in told.out
    assert "dns.smart.net" in told.err and "tcp alone" in told.err and "fast.smart.net" not in told.err
    row = next(line for line in server.ok("zones", "list").out.splitlines() if "smart.net" in line)
    assert row.split()[1:] == ["smart.net", "2", "on"]
    shown = server.ok("apps", "show", "fast.smart.net", "-o", "json").json
    assert (shown["argo_smart_routing"], shown["x_causeway"]["smart_routing"]["by"]) == (False, "zone")
    assert "tcp alone" in server.ok("apps", "show", "dns.smart.net").out.replace("\n", " ")
    assert server.ok("zones", "update", "smart.net", "--no-smart-routing", "-o", "json").json["value"] == "off"
    assert "x_causeway" not in server.ok("apps", "show", "fast.smart.net", "-o", "json").json
    assert server.run("zones", "update", "smart.net").code == 2
    for name in ("fast.smart.net", "dns.smart.net"):
        server.ok("apps", "delete", name)
    server.ok("zones", "delete", "smart.net")


def test_firewall_rules_are_made_found_explained_and_deleted(server: Server) -> None:
    server.ok("apps", "create", "--dns", "wall", "--protocol", f"tcp/{free_port()}", "--origin", "192.0.2.1:22",
              "--ip-firewall")  # fmt: skip
    assert "no rules yet" in server.ok("firewall", "list").err
    added = server.ok("firewall", "add", "198.51.100.0/24", "--notes", "scanner").out
    assert added.startswith("block 198.51.100.0/24 (")
    (server.folder / "partners.txt").write_text("198.51.100.7\n2001:db8::/32\n")
    assert "1 IPv4 and 1 IPv6 prefixes" in server.ok("firewall", "import", "partners", "partners.txt").out
    server.ok("firewall", "add", "list:partners", "--action", "allow", "--app", "wall")
    (server.folder / "asn.csv").write_text("203.0.113.0,203.0.113.255,64496\n")
    assert "asn: 1 AS numbers in 1 prefixes" in server.ok("geo", "update", "--asn", "asn.csv").out
    server.ok("firewall", "add", "AS64496", "--account", "--dry-run")

    told = server.ok("why-blocked", "198.51.100.8").out
    assert "blocked" in told and "scanner" in told
    assert "let in" in server.ok("why-blocked", "198.51.100.7").out
    explained = server.ok("why-blocked", "203.0.113.9", "-o", "json").json["applications"][0]
    assert "is on trial" in server.ok("why-blocked", "203.0.113.9").out.replace("\n", " ")
    assert (explained["verdict"], explained["asn"], len(explained["dry_run"])) == ("none", 64496, 1)
    rows = server.ok("firewall", "list").out
    assert "list:partners" in rows and "block (dry run)" in rows and "all zones" in rows

    for rule in ("198.51.100.0/24", "list:partners", "as64496"):
        server.ok("firewall", "remove", rule)
    assert server.ok("firewall", "list", "-o", "json").json == []
    assert server.run("firewall", "remove", "198.51.100.0/24").code == 1
    wrong = server.run("firewall", "add", "198.51.100.1/24")
    assert wrong.code == 1 and "did you mean 198.51.100.0/24" in wrong.err
    assert server.run("firewall", "import", "gone", "gone.txt").code == 2
    assert server.run("geo", "update").code == 2
