"""A Minecraft server that the edge speaks for: the server list from memory, joins in turn. Rows 25 and 26, short.

mcstatus is a real server list; the floods are of `causeway-load crowd`.
"""

import itertools
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mcstatus
import pytest
from support import minecraft
from support.crowd import EDGE, Place
from support.edge import Running
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Program, Programs

SUPPORT = Path(__file__).resolve().parents[1] / "support"
PORT, ORIGIN_PORT = 25565, 25566
BOTS = "198.19.2.0-198.19.2.63"
_hosts = itertools.count(10)


class Server:
    """The place with an edge and a Minecraft server behind it."""

    def __init__(self, place: Place, *flags: str, **fields: Any) -> None:
        self.place, self.fields = place, fields
        self.edge = place.edge(*flags)
        self.origin = self.start()
        self.app = self.edge.create_application(
            f"tcp/{PORT}", f"tcp://127.0.0.1:{ORIGIN_PORT}", x_causeway={"minecraft": fields}
        )

    def start(self) -> Program:
        command = [sys.executable, SUPPORT / "minecraft.py", "127.0.0.1", str(ORIGIN_PORT)]
        started = self.place.programs.start(*command, inside=self.place.middle)
        eventually(lambda: "listening" in started.output, 10)
        return started

    def asked(self, what: str) -> int:
        return self.origin.output.splitlines().count(what)

    def status(self) -> Any:
        with self.place.client:
            return mcstatus.JavaServer(EDGE, PORT, timeout=5).status()

    def connect(self, source: str) -> socket.socket:
        with self.place.client:
            made = socket.socket()
        made.settimeout(12)
        made.bind((source, 0))
        made.connect((EDGE, PORT))
        return made

    def join(self, source: str) -> socket.socket:
        """Join, as a player that has looked at its server list does; the server has taken it in when this returns."""
        player = self.connect(source)
        player.sendall(minecraft.handshake(2) + minecraft.login("Ada"))
        assert read(player, len(minecraft.packet(minecraft.LOGIN_SUCCESS)))[1:2] == b"\x02"
        return player


def read(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = connection.recv(count - len(found))
        if not more:
            break
        found += more
    return found


@pytest.fixture
def place(namespaces: Namespaces, programs: Programs, make_edge: Callable[..., Running]) -> Iterator[Place]:
    made = Place(namespaces, programs, make_edge)
    yield made
    made.end()


def test_the_server_list_is_answered_from_memory_also_while_the_server_is_down(place: Place) -> None:
    server = Server(place, status_cache_s=2)
    for _ in range(5):
        status = server.status()
        assert (status.players.online, status.version.name) == (3, "1.21.1")
        assert status.icon == minecraft.STATUS["favicon"]
    assert server.asked("status") == 1
    with place.client:
        assert 0 < mcstatus.JavaServer(EDGE, PORT, timeout=5).ping() < 2_000
    time.sleep(2.1)
    assert server.status().players.online == 3
    assert server.asked("status") == 2
    server.origin.stop()
    time.sleep(2.1)
    assert server.status().players.online == 3, "as it was last"
    told = server.edge.event(server.app, cause="answered")
    assert (told["status"], told["kind"]) == (200, "disconnect")
    [application] = [one for one in server.edge.result("GET", "/api/v1/applications") if one["id"] == server.app]
    assert application["listeners"][0]["not_carried"]["code"] == "minecraft"


def test_a_server_that_was_never_up_is_down(place: Place) -> None:
    server = Server(place, status_cache_s=2)
    server.origin.stop()
    with pytest.raises((OSError, EOFError)):
        server.status()
    server.origin = server.start()
    assert eventually(lambda: server.status().players.online == 3, 5)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x00", b"\xff" * 50])
def test_what_is_no_minecraft_is_cut_off(place: Place, said: bytes) -> None:
    server = Server(place, status_cache_s=2)
    with server.connect("198.19.1.9") as client:
        client.sendall(said)
        with pytest.raises(ConnectionResetError):
            assert client.recv(10) == b""
            raise ConnectionResetError
    assert server.edge.event(server.app, cause="minecraft_invalid")["status"] == 403
    assert server.asked("join") == server.asked("status") == 0


def test_a_player_who_speaks_byte_by_byte_joins_and_plays(place: Place) -> None:
    server = Server(place, status_cache_s=2, joins_per_s=5)
    with server.connect("198.19.1.9") as player:
        for byte in minecraft.handshake(2) + minecraft.login("Ada"):
            player.sendall(bytes([byte]))
        assert read(player, 23)[1:2] == b"\x02"
        for words in (b"move", b"dig" * 30_000):
            player.sendall(words)
            assert read(player, len(words)) == words


def test_a_flood_of_pings_reaches_the_server_once_a_second(place: Place) -> None:
    server = Server(place, status_cache_s=1)
    flood = place.attack(PORT, 1_000, 5, "--act", "status", sources=BOTS)
    told = place.told(flood, 30)
    served, begun = (sum(second[what] for second in told["seconds"][:4]) for what in ("served", "begun"))
    assert served >= 0.97 * begun, told  # the last ones of a second may be under way
    assert 1 <= server.asked("status") <= 6
    assert server.asked("join") == 0
    assert server.edge.counters(server.app)["answered_total"] >= served


def test_bots_that_join_wait_their_turn_and_players_do_not_notice(place: Place) -> None:
    server = Server(place, status_cache_s=1, joins_per_s=20)
    with ExitStack() as stack:
        joined = [stack.enter_context(server.join(f"198.19.1.{next(_hosts)}")) for _ in range(10)]
        flood = place.attack(PORT, 300, 14, "--act", "join", sources=BOTS)
        time.sleep(3)
        for number in range(20):
            source = f"198.19.1.{next(_hosts)}"
            with server.connect(source) as looking:  # its server list
                looking.sendall(minecraft.handshake(1) + minecraft.packet(b"\x00"))
                looking.sendall(minecraft.packet(b"\x01" + bytes(8)))
                while looking.recv(65_536):
                    pass
            began = time.monotonic()
            server.join(source).close()
            assert time.monotonic() - began < 10, number
            for player in joined:
                player.sendall(b"here")
                assert read(player, 4) == b"here"
        told = place.told(flood, 30)
        for player in joined:
            player.sendall(b"still here")
            assert read(player, 10) == b"still here"
    assert server.asked("join") <= 30 + 20 * 15, "twenty a second"
    assert sum(second["refused"] for second in told["seconds"]) > 500, told
    assert server.edge.event(server.app, cause="minecraft_join_limit")["status"] == 403
