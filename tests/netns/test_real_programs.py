"""Programs that people use every day reach their own servers through an edge, and notice nothing."""

import getpass
import hashlib
import json
import os
import random
import socket
import ssl
import sys
from pathlib import Path

import mcstatus
import pytest
from support import minecraft
from support.edge import Running
from support.names import NameServer
from support.patience import eventually
from support.ports import free_port, free_ports
from support.program import Program, Programs, need, run

SUPPORT = Path(minecraft.__file__).parent
BOTH_FAMILIES = pytest.mark.parametrize("address", ["127.0.0.1", "::1"])


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def front(edge: Running, port: int, address: str = "127.0.0.1", transport: str = "tcp", **fields: object) -> int:
    """An application for the origin at `address:port`; answers its port on the edge."""
    edge_port = free_port()
    edge.create_application(f"{transport}/{edge_port}", f"{transport}://{bracketed(address)}:{port}", **fields)
    return edge_port


def up(program: Program, port: int, address: str = "127.0.0.1") -> None:
    """Wait until a server takes connections."""

    def connects() -> bool:
        assert program.is_running, program.output
        socket.create_connection((address, port), timeout=1).close()
        return True

    eventually(connects, 10)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def ssh(edge: Running, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """An OpenSSH server behind the edge; answers the options that `ssh` and `scp` need, by address.

    The client trusts the server's own host key and no other, so an answer proves who answered.
    """
    need("ssh", "scp", "sshd", "ssh-keygen")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Debian's own start script makes it
    ports = {address: free_port() for address in ("127.0.0.1", "::1")}
    (folder / "config").write_text(
        "".join(f"ListenAddress {bracketed(address)}:{port}\n" for address, port in ports.items())
        + f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    server = module_programs.start("/usr/sbin/sshd", "-D", "-e", "-f", folder / "config")
    options: dict[str, list[str]] = {}
    for address, port in ports.items():
        up(server, port, address)
        edge_port = front(edge, port, address)
        known = folder / f"known-{edge_port}"
        known.write_text(f"[{address}]:{edge_port} {(folder / 'host.pub').read_text()}")
        options[address] = ["-F", "none", "-i", f"{folder}/user", "-o", f"Port={edge_port}", "-o", "BatchMode=yes"]
        options[address] += ["-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"]
    return options


@BOTH_FAMILIES
def test_ssh_runs_a_command(ssh: dict[str, list[str]], address: str) -> None:
    told = run("ssh", *ssh[address], f"{getpass.getuser()}@{address}", "cat; echo done >&2", stdin=b"over the edge")
    assert told == b"over the edge"


def test_scp_of_50_mb_arrives_whole_both_ways(ssh: dict[str, list[str]], tmp_path: Path) -> None:
    there, remote, back = tmp_path / "there", tmp_path / "remote", tmp_path / "back"
    there.write_bytes(random.Random(2).randbytes(50_000_000))
    host = f"{getpass.getuser()}@127.0.0.1"
    run("scp", "-q", *ssh["127.0.0.1"], there, f"{host}:{remote}", within_s=60)
    run("scp", "-q", *ssh["127.0.0.1"], f"{host}:{remote}", back, within_s=60)
    assert sha256(there) == sha256(remote) == sha256(back)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_dig_asks_a_name_server(edge: Running, programs: Programs, tmp_path: Path, transport: str) -> None:
    need("dig")
    server = NameServer(programs, tmp_path, f"--txt-record=big.example.net,{'x' * 250}")
    server.names(www="192.0.2.80 2001:db8::80")
    edge_port = front(edge, server.port, transport=transport)
    dig = ["dig", "@127.0.0.1", "-p", str(edge_port), "+tries=2", "+time=2", "+notcp" if transport == "udp" else "+tcp"]
    assert run(*dig, "+short", "www.example.net", "A", "www.example.net", "AAAA").split() == [
        b"192.0.2.80",
        b"2001:db8::80",
    ]
    assert b"x" * 250 in run(*dig, "+short", "big.example.net", "TXT")
    assert b"status: REFUSED" in run(*dig, "elsewhere.example.org", "A")


@BOTH_FAMILIES
def test_redis_cli_keeps_a_megabyte(edge: Running, programs: Programs, address: str) -> None:
    need("redis-server", "redis-cli")
    port = free_port()
    server = programs.start(
        "redis-server", "--port", str(port), "--bind", address, "--save", "", "--protected-mode", "no"
    )
    up(server, port, address)
    redis = ["redis-cli", "-h", address, "-p", str(front(edge, port, address))]
    value = random.Random(3).randbytes(1_000_000)
    assert run(*redis, "ping") == b"PONG\n"
    assert run(*redis, "-x", "set", "big", stdin=value) == b"OK\n"
    assert run(*redis, "get", "big") == value + b"\n"


@pytest.fixture(scope="module")
def iperf3(edge: Running, module_programs: Programs) -> list[str]:
    """iperf3 behind two ranges of ten ports, TCP and UDP; it listens on the fourth. UDP uses the port for both."""
    need("iperf3")
    edge_ports, origin_ports = free_ports(10), free_ports(10)
    for transport in ("tcp", "udp"):
        origin = f"{transport}://127.0.0.1:{origin_ports}-{origin_ports + 9}"
        edge.create_application(f"{transport}/{edge_ports}-{edge_ports + 9}", origin)
    server = module_programs.start("iperf3", "-s", "-B", "127.0.0.1", "-p", str(origin_ports + 3), "--forceflush")
    eventually(lambda: "listening" in server.output)
    return ["iperf3", "-c", "127.0.0.1", "-p", str(edge_ports + 3), "-J", "-t", "1"]


@pytest.mark.parametrize("direction", [[], ["-R"]], ids=["up", "down"])
def test_iperf3_measures_tcp_on_a_port_of_a_range(iperf3: list[str], direction: list[str]) -> None:
    end = json.loads(run(*iperf3, "-P", "2", *direction))["end"]
    assert end["sum_received"]["bytes"] > 10_000_000


@pytest.mark.parametrize("direction", [[], ["-R"]], ids=["up", "down"])
def test_iperf3_measures_udp_on_a_port_of_a_range(iperf3: list[str], direction: list[str]) -> None:
    total = json.loads(run(*iperf3, "-u", "-b", "10M", "-l", "1400", *direction))["end"]["sum"]
    assert total["packets"] > 500
    assert total["lost_packets"] <= total["packets"] * 0.02  # the machine is busy with other tests


def test_a_minecraft_server_list_sees_the_server(edge: Running, programs: Programs) -> None:
    port = free_port()
    server = programs.start(sys.executable, SUPPORT / "minecraft.py", "127.0.0.1", str(port))
    up(server, port)
    seen = mcstatus.JavaServer("127.0.0.1", front(edge, port), timeout=5)
    status = seen.status()
    assert status.version.name == "1.21.1"
    assert (status.players.online, status.players.max) == (3, 20)
    assert status.motd.to_plain() == "a server behind causeway"
    assert status.icon == minecraft.STATUS["favicon"]
    assert 0 < seen.ping() < 2_000


def test_whois_asks_about_a_name(edge: Running, programs: Programs) -> None:
    need("whois")
    port = free_port()
    server = programs.start(sys.executable, SUPPORT / "whois_server.py", "127.0.0.1", str(port))
    up(server, port)
    told = run("whois", "-h", "127.0.0.1", "-p", str(front(edge, port)), "example.net")
    assert told.splitlines() == [b"Domain Name: EXAMPLE.NET", b"Registrar: causeway tests"]


def test_git_clones_a_repository(edge: Running, programs: Programs, tmp_path: Path) -> None:
    need("git")
    served, clone = tmp_path / "served", tmp_path / "clone"
    run("git", "init", "-q", "-b", "main", served)
    who = ["-c", "user.name=A", "-c", "user.email=a@example.net", "-c", "gc.auto=0"]
    for number in range(5):
        (served / f"file-{number}").write_bytes(random.Random(number).randbytes(2_000_000))
        run("git", "-C", served, "add", ".")
        run("git", *who, "-C", served, "commit", "-q", "-m", f"file {number}")
    port = free_port()
    options = [f"--base-path={tmp_path}", "--export-all", "--listen=127.0.0.1", f"--port={port}"]
    daemon = programs.start("git", "daemon", *options)
    up(daemon, port)
    run("git", "clone", "-q", f"git://127.0.0.1:{front(edge, port)}/served", clone)
    run("git", "-C", clone, "fsck", "--full", "--strict")
    heads = [run("git", "-C", folder, "rev-parse", "HEAD") for folder in (served, clone)]
    assert heads[0] == heads[1]


@BOTH_FAMILIES
def test_curl_sees_the_origins_own_certificate(edge: Running, programs: Programs, tmp_path: Path, address: str) -> None:
    need("curl", "openssl")
    key, certificate, page = tmp_path / "key.pem", tmp_path / "certificate.pem", tmp_path / "page"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=origin.example.net"
    names = ["-addext", "subjectAltName=DNS:origin.example.net"]
    run("openssl", *request.split(), *names, "-keyout", key, "-out", certificate)
    page.write_bytes(random.Random(4).randbytes(3_000_000))
    port = free_port()
    options = ["-accept", f"{bracketed(address)}:{port}", "-WWW", "-quiet"]
    server = programs.start("openssl", "s_server", *options, "-cert", certificate, "-key", key)
    up(server, port, address)
    edge_port = front(edge, port, address)
    curl = ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", certificate]
    way = ["--connect-to", f"::{bracketed(address)}:{edge_port}"]
    got = run(*curl, *way, "https://origin.example.net/page", within_s=20)
    assert got == page.read_bytes()
    seen = ssl.get_server_certificate((address, edge_port), timeout=5)
    assert seen.strip() == certificate.read_text().strip()
