"""Names of applications asked of a real server by a real resolver tool; edges of their own, over a real nats-server."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mmdb import mmdb
from support.dig import Heard, dig
from support.echo import ask, start_echo
from support.edge import CAUSEWAY, Running
from support.nats import NatsServer
from support.outpost import Outpost
from support.patience import eventually
from support.ports import free_port
from support.program import Programs, environment, need

CONTROL, FRANKFURT, FRANKFURT_TOO, NEW_YORK = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
PLACES = {FRANKFURT: "50.11,8.68", FRANKFURT_TOO: "50.10,8.70", NEW_YORK: "40.71,-74.01"}
TTL_S = 20
WITHIN_S = 10.0  # of a busy machine; that a table follows within a second is what it is made for
COUNTRIES = mmdb({"10.1.0.0/16": {"country_code": "DE"}, "10.2.0.0/16": {"country_code": "US"}})
GONE_S = 5.0 + 1.0  # an edge is silent, and seen to be


@pytest.fixture
def dns_port() -> int:
    while True:
        port = free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((CONTROL, port))
            except OSError:
                continue
            return port


@pytest.fixture
def alone(make_edge: Callable[..., Running], dns_port: int) -> Running:
    return make_edge("--dns", f"{CONTROL}:{dns_port}", "--workers", "1").start()


def test_names_of_applications_are_answered_by_the_machine_that_serves_them(
    alone: Running, dns_port: int, programs: Programs
) -> None:
    port = free_port()
    made = alone.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    name = f"app-tcp-{port}.example.net"
    heard = eventually(lambda: (h := dig(dns_port, name)).addresses == [CONTROL] and h, WITHIN_S)
    assert heard.answers == (f"{name}. {TTL_S} IN A {CONTROL}",)
    assert {"qr", "aa"} <= heard.flags and "ra" not in heard.flags
    assert ask(port, heard.addresses[0]) == b"hello", "and there it is"

    assert dig(dns_port, name, "A", "+tcp").addresses == [CONTROL]
    nothing = dig(dns_port, name, "AAAA")
    assert (nothing.status, nothing.answers) == ("NOERROR", ())
    assert nothing.authorities[0].startswith(f"example.net. {TTL_S} IN SOA ns1.example.net. hostmaster.example.net. ")
    assert dig(dns_port, "nowhere.example.net").status == "NXDOMAIN"
    assert dig(dns_port, "example.org").status == "REFUSED"
    with pytest.raises(OSError, match="Transfer failed"):
        dig(dns_port, "example.net", "AXFR", "+tcp")
    assert dig(dns_port, name, "ANY").answers == (f'{name}. {TTL_S} IN HINFO "RFC8482" ""',)
    assert dig(dns_port, "example.net", "NS").answers == ("example.net. 3600 IN NS ns1.example.net.",)
    assert dig(dns_port, "ns1.example.net").addresses == [CONTROL]
    assert dig(dns_port, name.upper()).addresses == [CONTROL]
    assert dig(dns_port, name, "A", "+subnet=0").addresses == [CONTROL]
    assert dig(dns_port, name, "A", "+edns=1", "+noednsneg").status == "BADVERS"

    alone.delete_application(made)
    eventually(lambda: dig(dns_port, name).status == "NXDOMAIN", WITHIN_S)


def test_names_outlive_a_restart_and_an_upgrade_does_not_leave_a_question_unanswered(
    alone: Running, dns_port: int, programs: Programs
) -> None:
    port = free_port()
    alone.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    name = f"app-tcp-{port}.example.net"
    eventually(lambda: dig(dns_port, name).addresses == [CONTROL], WITHIN_S)
    before = int(dig(dns_port, "example.net", "SOA").answers[0].split()[6])
    assert alone.program
    alone.program.send(1)
    while alone.output.count(" serves, version ") < 2:
        assert dig(dns_port, name).addresses == [CONTROL]
    until_s = time.monotonic() + 2
    while time.monotonic() < until_s:
        assert dig(dns_port, name).addresses == [CONTROL]
    assert int(dig(dns_port, "example.net", "SOA").answers[0].split()[6]) == before, "it is the same table"
    alone.restart()
    assert dig(dns_port, name).addresses == [CONTROL]


def test_a_port_that_somebody_has_ends_the_start_with_what_to_do(
    make_edge: Callable[..., Running], dns_port: int
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((CONTROL, dns_port))
        program = make_edge("--dns", f"{CONTROL}:{dns_port}").launch()
        assert program.wait() == 1
    assert f"DNS cannot listen on {CONTROL}:{dns_port}: Address already in use; choose another --dns" in program.output


def test_an_edge_on_all_addresses_is_answered_with_the_one_that_reaches_the_world(
    make_edge: Callable[..., Running], dns_port: int, programs: Programs
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 53))
        except OSError as error:
            pytest.skip(f"this machine has no way to the world: {error}")
        outward = probe.getsockname()[0]
    flags = ("--edge-ip", "0.0.0.0", "--allow-loopback-origins", "--workers", "1")
    edge = make_edge("--dns", f"0.0.0.0:{dns_port}", *flags).start()
    port = free_port()
    edge.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    name = f"app-tcp-{port}.example.net"
    for asked in ("127.0.0.1", "127.0.0.9", outward):
        heard = eventually(lambda at=asked: (h := dig(dns_port, name, server=at)).answers and h, WITHIN_S)
        assert heard.addresses == [outward]
    assert dig(dns_port, "ns1.example.net").addresses == [outward]
    assert ask(port, outward) == b"hello"


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--dns-ttl-s", "5"], "--dns-ttl-s is for --dns"),
        (["--dns", "127.0.0.1", "--dns-ttl-s", "0"], "--dns-ttl-s"),
        (["--dns", "127.0.0.1", "--dns-name", "no name"], "names such as ns1.example.net"),
        (["--dns", "here"], "here"),
        (["--location", "91,0"], "is not like 50.11,8.68"),
        (["--location", "Berlin"], "is not like 50.11,8.68"),
        (["--public-ip", "0.0.0.0"], "not an address that clients can connect to"),
    ],
)
def test_flags_that_cannot_be_are_refused_with_what_is_wrong(
    flags: list[str], why: str, make_edge: Callable[..., Running]
) -> None:
    program = make_edge(*flags).launch()
    assert program.wait() == 2
    assert why in program.output


class World:
    """Control with the name server, and three edges: two in Frankfurt, one in New York."""

    def __init__(self, programs: Programs, folder: Path, make_edge: Callable[..., Running], dns_port: int) -> None:
        self.programs, self.dns_port, self.service = programs, dns_port, free_port()
        self.nats = NatsServer(programs, folder / "nats").start()
        self.control = make_edge(
            "--exchange", self.nats.url, "--workers", "1", "--dns", f"{CONTROL}:{dns_port}",
            "--dns-name", "ns1.example.net", "--dns-name", "ns2.example.org",
        ).start()  # fmt: skip
        names = {FRANKFURT: "fra-1", FRANKFURT_TOO: "fra-2", NEW_YORK: "nyc-1"}
        self.edges = {
            address: Outpost(
                programs, folder / name, self.nats.url, name, address, f"--location={PLACES[address]}"
            )
            for address, name in names.items()
        }  # fmt: skip
        for edge in self.edges.values():
            edge.start(ready=None)
        for edge in self.edges.values():
            edge.await_readiness(200)
        self.name = f"app-tcp-{self.service}.example.net"
        self.control.create_application(f"tcp/{self.service}", f"tcp://127.0.0.1:{start_echo(programs)}")
        self.soon([CONTROL, FRANKFURT, FRANKFURT_TOO, NEW_YORK])
        answer = self.control.http.put("/api/v1/firewall/databases/country", content=COUNTRIES)
        assert answer.status_code == 200, answer.text
        self.soon([FRANKFURT, FRANKFURT_TOO], "10.1.2.0/24")

    def asked(self, subnet: str = "") -> list[str]:
        return dig(self.dns_port, self.name, "A", *([f"+subnet={subnet}"] if subnet else [])).addresses

    def soon(self, expected: list[str], subnet: str = "", within_s: float = WITHIN_S) -> float:
        """Answers how long it took."""
        began_s = time.monotonic()
        eventually(lambda: self.asked(subnet) == expected or self.fail(subnet), within_s)
        return time.monotonic() - began_s

    def fail(self, subnet: str) -> bool:
        raise AssertionError(f"{subnet or 'from here'}: {self.asked(subnet)}")


@pytest.fixture
def world(programs: Programs, tmp_path: Path, make_edge: Callable[..., Running], dns_port: int) -> Iterator[World]:
    yield World(programs, tmp_path, make_edge, dns_port)


@pytest.mark.slow
def test_clients_are_sent_to_the_nearest_edges_and_move_on_within_one_ttl(world: World) -> None:
    everywhere, frankfurt = [CONTROL, FRANKFURT, FRANKFURT_TOO, NEW_YORK], [FRANKFURT, FRANKFURT_TOO]
    heard = dig(world.dns_port, world.name, "A", "+subnet=10.1.2.0/24")
    assert (heard.addresses, heard.subnet) == (frankfurt, "10.1.2.0/24/16")
    assert all(f" {TTL_S} IN A " in answer for answer in heard.answers)
    heard = dig(world.dns_port, world.name, "A", "+subnet=10.2.2.0/24")
    assert (heard.addresses, heard.subnet) == ([NEW_YORK], "10.2.2.0/24/16")
    assert world.asked("10.9.0.0/16") == everywhere, "of whom nothing is known"
    servers = [line.split()[4] for line in dig(world.dns_port, "example.net", "NS").answers]
    assert servers == ["ns1.example.net.", "ns2.example.org."]

    world.control.result("PUT", "/api/v1/edges/fra-1", {"drained": True})
    drained_s = world.soon([FRANKFURT_TOO], "10.1.2.0/24")
    world.control.result("PUT", "/api/v1/edges/fra-1", {"drained": False})
    world.soon(frankfurt, "10.1.2.0/24")

    world.edges[NEW_YORK].kill()
    killed_s = world.soon(frankfurt, "10.2.2.0/24", GONE_S + WITHIN_S)
    print(f"drained: {drained_s:.1f} s, killed: {killed_s:.1f} s; and a TTL of {TTL_S} s")
    assert killed_s + TTL_S <= 30, "who was answered just before asks again by then"
    world.edges[NEW_YORK].start()
    world.soon([NEW_YORK], "10.2.2.0/24")


@pytest.mark.slow
def test_who_cannot_hear_its_edges_answers_as_before_and_so_does_one_that_starts_anew(world: World) -> None:
    frankfurt = [FRANKFURT, FRANKFURT_TOO]
    world.nats.kill()
    until_s = time.monotonic() + GONE_S + 3
    while time.monotonic() < until_s:
        assert (world.asked("10.1.2.0/24"), world.asked("10.2.2.0/24")) == (frankfurt, [NEW_YORK])
        time.sleep(0.2)
    world.control.kill_all()
    world.control.start()
    assert (world.asked("10.1.2.0/24"), world.asked("10.2.2.0/24")) == (frankfurt, [NEW_YORK])
    world.edges[NEW_YORK].kill()
    world.nats.start()
    world.soon(frankfurt, "10.2.2.0/24", 30)
    assert world.asked("10.1.2.0/24") == frankfurt


def test_one_application_of_one_edge_alone_is_answered_with_its_address(
    programs: Programs, tmp_path: Path, make_edge: Callable[..., Running], dns_port: int
) -> None:
    nats = NatsServer(programs, tmp_path / "nats").start()
    control = make_edge("--exchange", nats.url, "--workers", "1", "--dns", f"{CONTROL}:{dns_port}").start()
    edge = Outpost(programs, tmp_path / "fra-1", nats.url, "fra-1", FRANKFURT, "--public-ip=192.0.2.7").start(None)
    edge.await_readiness(200)
    body = {
        "protocol": f"tcp/{free_port()}",
        "dns": {"type": "ADDRESS", "name": "pinned.example.net"},
        "origin_direct": [f"tcp://127.0.0.1:{start_echo(programs)}"],
        "edge_ips": {"type": "static", "ips": [FRANKFURT]},
    }
    eventually(lambda: control.http.post(control.applications, json=body).status_code == 200, WITHIN_S)
    eventually(lambda: dig(dns_port, "pinned.example.net").addresses == ["192.0.2.7"], WITHIN_S)


@pytest.mark.slow
def test_knot_answers_the_same_by_the_files_that_are_exported(world: World, tmp_path: Path, dns_port: int) -> None:
    need("knotd")
    if not list(Path("/usr/lib").glob("*/knot/modules-*/geoip.so")):
        pytest.skip("knotd has no geo module here: install knot-module-geoip")
    folder, port = tmp_path / "knot", free_port()
    folder.mkdir()
    (folder / "geo.mmdb").write_bytes(COUNTRIES)
    steering = environment({"CAUSEWAY_URL": world.control.url, "CAUSEWAY_API_TOKEN": world.control.token})
    shown = subprocess.run([CAUSEWAY, "dns", "show"], capture_output=True, text=True, timeout=30, env=steering).stdout
    assert sorted(line.split()[1] for line in shown.splitlines()[1:]) == [CONTROL, FRANKFURT, FRANKFURT_TOO, NEW_YORK]
    done = subprocess.run(
        [CAUSEWAY, "dns", "export", "--out", folder / "made", "--geo", folder / "geo.mmdb"],
        capture_output=True, text=True, timeout=30, env=steering,
    )  # fmt: skip
    assert (done.returncode, "wrote 3 files" in done.stdout) == (0, True), done
    (folder / "knot.conf").write_text(
        f"""server:
    listen: {CONTROL}@{port}
    rundir: "{folder}"
    edns-client-subnet: on
database:
    storage: "{folder}"
log:
  - target: stderr
    any: info
include: "{folder}/made/causeway.conf"
"""
    )
    knot = world.programs.start("knotd", "-c", folder / "knot.conf")
    eventually(lambda: "server started" in knot.output, WITHIN_S)
    for subnet in ("10.1.2.0/24", "10.2.2.0/24", "10.9.0.0/16"):
        ours = dig(dns_port, world.name, "A", f"+subnet={subnet}")
        its = dig(port, world.name, "A", f"+subnet={subnet}")
        assert its.addresses == ours.addresses, subnet
        assert all(f" {TTL_S} IN A " in answer for answer in its.answers)
    assert dig(port, "example.net", "NS").answers == dig(dns_port, "example.net", "NS").answers
    assert dig(port, "nowhere.example.net").status == "NXDOMAIN"


@pytest.mark.slow
def test_a_drained_edge_serves_who_has_its_address_until_nobody_has(
    programs: Programs, tmp_path: Path, make_edge: Callable[..., Running], dns_port: int
) -> None:
    ttl_s = 6
    nats = NatsServer(programs, tmp_path / "nats").start()
    flags = ("--exchange", nats.url, "--workers", "1", "--dns", f"{CONTROL}:{dns_port}", "--dns-ttl-s", str(ttl_s))
    control = make_edge(*flags).start()
    Outpost(programs, tmp_path / "fra-1", nats.url, "fra-1", FRANKFURT).start(None).await_readiness(200)
    port = free_port()
    control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs)}")
    name = f"app-tcp-{port}.example.net"
    eventually(lambda: dig(dns_port, name).addresses == [CONTROL, FRANKFURT], WITHIN_S)

    control.result("PUT", "/api/v1/edges/fra-1", {"drained": True})
    began_s = time.monotonic()
    eventually(lambda: dig(dns_port, name).addresses == [CONTROL], 5)
    while time.monotonic() < began_s + ttl_s - 1:
        assert ask(port, FRANKFURT) == b"hello", "somebody may have asked just before"
        time.sleep(0.2)
    eventually(lambda: is_closed(FRANKFURT, port), 10)
    control.restart()
    time.sleep(2)
    assert is_closed(FRANKFURT, port), "it is drained since long"
    control.result("PUT", "/api/v1/edges/fra-1", {"drained": False})
    eventually(lambda: dig(dns_port, name).addresses == [CONTROL, FRANKFURT], WITHIN_S)
    assert ask(port, FRANKFURT) == b"hello"


def is_closed(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
def test_edges_answer_names_too_and_go_on_alone(
    programs: Programs, tmp_path: Path, make_edge: Callable[..., Running], dns_port: int
) -> None:
    nats = NatsServer(programs, tmp_path / "nats").start()
    control = make_edge("--exchange", nats.url, "--workers", "1", "--dns", f"{CONTROL}:{dns_port}").start()
    edge = Outpost(
        programs, tmp_path / "fra-1", nats.url, "fra-1", FRANKFURT, "--dns", f"{FRANKFURT}:{dns_port}",
        "--location=50.11,8.68",
    ).start(None)  # fmt: skip
    edge.await_readiness(200)
    service = free_port()
    control.create_application(f"tcp/{service}", f"tcp://127.0.0.1:{start_echo(programs)}")
    answer = control.http.put("/api/v1/firewall/databases/country", content=COUNTRIES)
    assert answer.status_code == 200, answer.text

    def of_edge(name: str, kind: str = "A", *more: str) -> Heard:
        return dig(dns_port, name, kind, *more, server=FRANKFURT)

    name = f"app-tcp-{service}.example.net"
    eventually(lambda: of_edge(name).addresses == [CONTROL, FRANKFURT], WITHIN_S)
    eventually(lambda: of_edge(name, "A", "+subnet=10.1.2.0/24").addresses == [FRANKFURT], WITHIN_S)
    for port_of in (CONTROL, FRANKFURT):
        servers = [line.split()[4] for line in dig(dns_port, "example.net", "NS", server=port_of).answers]
        assert servers == ["ns1.example.net.", "ns-fra-1.example.net."]
        assert dig(dns_port, "ns-fra-1.example.net", server=port_of).addresses == [FRANKFURT]

    control.kill_all()
    nats.kill()
    assert of_edge(name).addresses == [CONTROL, FRANKFURT]
    edge.kill()
    edge.start()
    assert of_edge(name).addresses == [CONTROL, FRANKFURT], "from its disk"
    assert of_edge(name, "A", "+subnet=10.1.2.0/24").addresses == [FRANKFURT]

    nats.start()
    control.start()
    control.delete_application(control.result("GET", control.applications)[0]["id"])
    eventually(lambda: of_edge(name).status == "NXDOMAIN", 20)
