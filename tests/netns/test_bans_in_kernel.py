"""Bans reach the kernel: SYNs of who is banned go no further than the driver, and nobody else misses anything.

Nothing is set for that: `--guard auto` attaches when the engine has found a reason.
"""

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.crowd import ECHO, EDGE, Place, detections, kept
from support.echo import echoes
from support.edge import Running, need_guard
from support.namespaces import Namespace, Namespaces
from support.patience import eventually
from support.program import Programs

PORT = 9000
LEAST = 0.99  # a busy machine may lose some
SYN, ACK = 2, 16
SO_RCVBUFFORCE = 33
SOON_S = 0.9  # a SYN that was dropped comes again after a second
HOST = "198.19.2.3"  # one of the attackers
ATTACKERS = "198.19.2.0-198.19.2.7"
SENSITIVE = {"mitigation": "high"}  # so that little is enough, for busy machines
FEW = ("--connection-rate", "60", "--request-rate", "200")


@pytest.fixture
def place(namespaces: Namespaces, programs: Programs, make_edge: Callable[..., Running]) -> Iterator[Place]:
    need_guard()
    made = Place(namespaces, programs, make_edge)
    yield made
    made.end()


def syns_heard(inside: Namespace, seconds: float) -> Counter[str]:
    """By source: what comes behind the driver, where the stack and everything else begin."""
    with inside:
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
    heard: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with ear:
        while (left := end - time.monotonic()) > 0:
            ear.settimeout(left)
            try:
                packet, (_, _, direction, _, _) = ear.recvfrom(100)
            except TimeoutError:
                break
            at = (packet[0] & 15) * 4
            is_ours = direction == socket.PACKET_HOST and packet[9] == socket.IPPROTO_TCP
            if is_ours and packet[at + 2 : at + 4] == PORT.to_bytes(2, "big") and packet[at + 13] & (SYN | ACK) == SYN:
                heard[socket.inet_ntoa(packet[12:16])] += 1
    return heard


def guard(edge: Running) -> dict[str, Any]:
    found = edge.status()["edges"][0]["guard"]
    assert isinstance(found, dict)
    return found


def dropped(edge: Running, app: str) -> int:
    found = [at["verdicts"] for at in guard(edge)["applications"] if at["application"] == app]
    return int(found[0].get("banned", 0)) if found else 0


def connection(place: Place, source: str) -> socket.socket:
    with place.client:
        made = socket.socket()
    try:
        made.settimeout(SOON_S)
        made.bind((source, 0))
        made.connect((EDGE, PORT))
    except OSError:
        made.close()
        raise
    return made


def answer(place: Place, source: str) -> str:
    try:
        with connection(place, source) as made:
            return "served" if echoes(made) else "nothing"
    except TimeoutError:
        return "silence"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "reset"


def test_who_floods_is_heard_no_more_and_users_are_served(place: Place) -> None:
    edge = place.edge()
    app = edge.create_application(f"tcp/{PORT}", f"tcp://127.0.0.1:{ECHO}", x_causeway=SENSITIVE)
    users = place.users(PORT, 19, *FEW)
    assert not guard(edge)["is_on"]
    opened = connection(place, HOST)
    assert echoes(opened)
    flood = place.attack(PORT, 8 * 60, 16, sources=ATTACKERS)
    eventually(lambda: len(detections(edge, "connection_flood")) == 8, 8)
    eventually(lambda: dropped(edge, app) > 0, 10)
    heard = syns_heard(place.middle, 2.0)
    assert sum(count for source, count in heard.items() if source.startswith("198.19.1.")) > 50, heard
    assert not [source for source in heard if source.startswith("198.19.2.")], heard
    assert dropped(edge, app) > 200
    assert echoes(opened), "what was open stays"
    opened.close()
    place.told(flood, 20)
    served = place.told(users, 20)
    assert kept(served, "connections") >= LEAST and kept(served, "requests") >= LEAST, served
    assert served["broken"] == 0
    # Told as it was: since when, how much, and how soon it was answered.
    [attack] = edge.http.get("/api/v1/attacks", params={"application": app}).json()["result"]
    assert attack["kind"] == "connection_flood"
    assert 240 <= attack["peak_packets_per_s"] <= 5_000, attack
    assert 100 <= attack["mitigated_after_ms"] <= 4_000, attack
    assert f"is answered, after {attack['mitigated_after_ms']} ms" in edge.output
    assert edge.counters(app)["mitigation_refused_total"] >= dropped(edge, app) // 2


def test_who_is_allowed_is_let_in_from_a_network_that_is_banned(place: Place) -> None:
    edge = place.edge()
    zone = edge.applications.split("/")[4]
    allowed = "198.19.2.7"
    rule = {"mode": "whitelist", "configuration": {"target": "ip", "value": allowed}}
    edge.result("POST", f"/client/v4/zones/{zone}/firewall/access_rules/rules", rule)
    app = edge.create_application(f"tcp/{PORT}", f"tcp://127.0.0.1:{ECHO}", ip_firewall=True)
    users = place.users(PORT, 15, *FEW)
    flood = place.attack(PORT, 64 * 12, 12, sources="198.19.2.64-198.19.2.127")
    found = eventually(lambda: detections(edge, "connection_flood"), 10)
    assert [one["source"] for one in found] == ["198.19.2.0/24"]
    eventually(lambda: dropped(edge, app) > 100, 5)
    assert (answer(place, allowed), answer(place, "198.19.2.8")) == ("served", "silence")
    assert answer(place, "198.19.1.99") == "served"
    # A rule that comes now holds as soon as its answer is there.
    edge.result(
        "POST",
        f"/client/v4/zones/{zone}/firewall/access_rules/rules",
        {"mode": "whitelist", "configuration": {"target": "ip", "value": "198.19.2.8"}},
    )
    assert answer(place, "198.19.2.8") == "served"
    place.told(flood, 20)
    place.told(users, 20)


def test_a_ban_ends_to_the_second_and_nobody_has_to_be_there(place: Place) -> None:
    edge = place.edge()
    edge.create_application(f"tcp/{PORT}", f"tcp://127.0.0.1:{ECHO}", x_causeway=SENSITIVE)
    users = place.users(PORT, 9, *FEW)
    place.told(place.attack(PORT, 4 * 60, 5, sources="198.19.2.0-198.19.2.3"), 20)
    place.told(users, 20)
    eventually(lambda: answer(place, HOST) == "silence", 30, every_s=1)  # rarely: it must not keep the ban up

    def until_s() -> float:
        return float(max(one["until_unix_ms"] for one in detections(edge, "connection_flood"))) / 1000

    # What comes again of itself keeps the ban up for a while.
    eventually(lambda: time.time() - until_s() < -50, 5)
    eventually(lambda: 0 < until_s() - time.time() < 52, 30)
    ends_s = until_s()
    edge.kill_all()
    eventually(lambda: time.time() > ends_s - 3, 70, every_s=0.2)
    assert answer(place, HOST) == "silence"
    eventually(lambda: time.time() > ends_s + 1, 10)
    assert answer(place, HOST) == "refused", "nobody listens, and the kernel says so"
