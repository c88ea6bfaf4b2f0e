"""A network of certified edges, from `causeway up` to `causeway revoke`, by the commands that people type."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.certified import CertifiedNetwork
from support.echo import ask, echoes, reset, start_echo
from support.edge import CAUSEWAY, Running
from support.outpost import Outpost
from support.patience import eventually
from support.ports import free_port
from support.program import Programs, environment

FIRST, SECOND = "127.0.0.2", "127.0.0.3"


class Network(CertifiedNetwork):
    def outpost(self, join: Path, name: str, address: str) -> Outpost:
        return Outpost(self.programs, self.folder / name, str(join), name, address)

    def serves(self, edge: Outpost) -> bool:
        """Whether a new application comes to it."""
        port = free_port()
        self.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(self.programs)}")
        return bool(eventually(lambda: ask(port, edge.address) == b"hello", 20))


@pytest.fixture
def network(programs: Programs, tmp_path: Path, make_edge: Callable[..., Running]) -> Iterator[Network]:
    yield Network(programs, tmp_path, make_edge)


def test_an_invited_machine_becomes_an_edge_and_stays_one(network: Network) -> None:
    told = network.command("invite", "fra-1")
    join = network.folder / "fra-1.join"
    assert "causeway edge --join fra-1.join" in told
    assert join.stat().st_mode & 0o777 == 0o600
    assert json.loads(join.read_text())["key"] not in told
    edge = network.outpost(join, "fra-1", FIRST).start()
    assert network.serves(edge)
    assert "fra-1" in network.command("edges")
    kept = edge.data_dir / "exchange" / "identity.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    secrets = [json.loads(path.read_text())["key"].splitlines()[1] for path in (kept, join)]
    assert not any(secret in edge.output + network.control.output for secret in secrets)

    edge.kill()  # the same command again, with the used invitation
    edge.start()
    assert network.serves(edge)
    join.unlink()  # or without it
    edge.kill()
    edge.start()
    assert network.serves(edge)


def test_an_upgrade_keeps_connections_and_membership(network: Network) -> None:
    edge = network.outpost(network.invite("fra-1"), "fra-1", FIRST).start()
    port = free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    eventually(lambda: ask(port, edge.address) == b"hello")
    import socket

    with socket.create_connection((edge.address, port), timeout=5) as held:
        assert echoes(held)
        edge.upgrade()
        eventually(lambda: edge.output.count(" serves, version ") == 2, 20)
        assert echoes(held)
        assert network.serves(edge)
        reset(held)


def test_a_used_invitation_lets_no_second_machine_in(network: Network) -> None:
    join = network.invite("fra-1")
    edge = network.outpost(join, "fra-1", FIRST).start()
    thief = Outpost(network.programs, network.folder / "thief", str(join), "fra-1", SECOND).start(ready=503)
    eventually(lambda: "was used already" in thief.told()["reason"], 10)
    eventually(lambda: "no certificate for fra-1: the invitation of fra-1 was used already" in network.control.output)
    assert not (thief.data_dir / "exchange" / "identity.json").exists()
    assert network.serves(edge)


def test_a_second_invitation_withdraws_the_first(network: Network) -> None:
    first = network.invite("fra-1").rename(network.folder / "first.join")
    second = network.invite("fra-1")
    late = Outpost(network.programs, network.folder / "late", str(first), "fra-1", SECOND).start(ready=503)
    eventually(lambda: "has expired or was withdrawn" in late.told()["reason"], 10)
    network.outpost(second, "fra-1", FIRST).start()


def test_a_revoked_edge_hears_nothing_more_until_it_is_invited_again(network: Network) -> None:
    edge = network.outpost(network.invite("fra-1"), "fra-1", FIRST).start()
    other = network.outpost(network.invite("ams-1"), "ams-1", SECOND).start()
    assert network.serves(edge)
    assert "edge fra-1 is revoked" in network.command("revoke", "fra-1")
    eventually(lambda: edge.told()["is_connected"] is False)
    assert network.serves(other), "the others are let alone"
    assert "fra-1" not in network.command("edges")
    assert edge.told()["ready"] is True, "it serves what it has"
    network.nats.end()  # neither a restart of nats-server nor one of control lets it in
    network.control.restart()
    network.nats = network.start_nats()
    assert network.serves(other)
    eventually(lambda: "authentication error" in network.nats.output, 10)
    assert "fra-1" not in network.command("edges")

    (network.folder / "fra-1.join").unlink()
    network.invite("fra-1")
    edge.kill()
    edge.start()
    assert network.serves(edge)


def test_a_machine_that_joins_while_control_is_away_is_let_in_later(network: Network) -> None:
    join = network.invite("fra-1")
    network.control.kill_all()
    edge = network.outpost(join, "fra-1", FIRST).start(ready=503)
    eventually(lambda: "control is not on the exchange" in edge.output, 10)
    network.control.start()
    edge.await_readiness(200)
    assert network.serves(edge)


def test_what_cannot_be_invited_or_revoked_is_refused_with_a_reason(network: Network) -> None:
    assert "an edge is called by 1 to 32" in network.command("invite", "Frankfurt!", status=1)
    assert "not local" in network.command("invite", "local", status=1)
    assert "there is no edge 'ams-1', nor was one invited" in network.command("revoke", "ams-1", status=1)
    network.invite("fra-1")
    assert "fra-1.join exists" in network.command("invite", "fra-1", status=2)
    network.outpost(network.folder / "fra-1.join", "fra-1", FIRST).start()  # which is still one


def test_commands_answer_programs_too(network: Network) -> None:
    piped = json.loads(network.command("invite", "fra-1", "--out", "-"))
    assert (piped["name"], piped["url"]) == ("fra-1", network.url)
    told = json.loads(network.command("invite", "fra-1", "--out", "f.join", "-o", "json"))
    assert told == {"name": "fra-1", "file": "f.join"} and (network.folder / "f.join").exists()
    edge = network.outpost(network.folder / "f.join", "fra-1", FIRST).start()
    eventually(lambda: "fra-1" in network.command("edges"))
    assert json.loads(network.command("drain", "fra-1", "-o", "json")) == {"name": "fra-1", "drained": True}
    assert json.loads(network.command("revoke", "fra-1", "-o", "json")) == {"name": "fra-1", "is_in_force": True}
    eventually(lambda: edge.told()["is_connected"] is False)


def test_control_without_a_network_says_how_to_have_one(edge: Running) -> None:
    for method, path in (("POST", "/api/v1/edges/fra-1/invitation"), ("DELETE", "/api/v1/edges/fra-1")):
        answer = edge.http.request(method, path)
        assert answer.status_code == 403
        assert "--exchange tls://HOST:PORT" in answer.text


def test_who_may_only_read_invites_nobody(network: Network) -> None:
    made = network.control.result("POST", "/api/v1/tokens", {"name": "reader", "scope": "read"})
    answer = network.control.http.post(
        "/api/v1/edges/fra-1/invitation", headers={"Authorization": f"Bearer {made['value']}"}
    )
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        (b"", "is not what `causeway invite` writes"),
        (b"{}", "is not what `causeway invite` writes"),
        (b"\xff" * 100_000, "is not what `causeway invite` writes"),
        (b'{"url":"tls://127.0.0.1:1","name":"a","ca":"x","key":"s3cret","certificate":"x","jwt":"x"}', "is not what"),
    ],
)
def test_a_file_that_is_no_invitation_ends_the_start_with_a_reason(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "fra-1.join"
    if content is not None:
        path.write_bytes(content)
    done = subprocess.run(
        [CAUSEWAY, "edge", "--join", str(path), "--data-dir", str(tmp_path / "data"), "--api", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=30, env=environment(),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert why in done.stderr and "causeway invite" in done.stderr
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["causeway edge"], (
        "said once, not tried again"
    )
    assert "s3cret" not in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_authority_leaves_the_edge_of_control_serving(network: Network) -> None:
    port = free_port()
    network.control.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(network.programs)}")
    network.control.stop()
    (network.control.data_dir / "exchange" / "authority.json").write_text("{")
    network.control.start()
    assert ask(port) == b"hello"
    assert "put back a copy of it" in network.control.output


def test_the_files_of_the_exchange_are_for_their_user_alone(network: Network) -> None:
    folder = network.control.data_dir / "exchange"
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("authority.json", "nats.conf", "server.key"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name
    assert time.time() - os.stat(folder / "nats.conf").st_mtime < 60
