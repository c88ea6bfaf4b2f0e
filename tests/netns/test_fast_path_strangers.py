"""What strangers send to the fast path opens nothing, breaks nothing, and pushes nobody out.

A third network, 198.18.3.2 and 2001:db8:3::2, is at the edge too, and says that it is whoever it likes.
"""

import itertools
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from support.both_ends import BothEnds, is_at_its_end, proxy_v2, receive, says
from support.carried import EDGE, ORIGIN, Middle
from support.frames import ACK, FIN, FORGED_WINDOW, PSH, RST, SYN, Wire, icmp, network, seqs, tcp, udp
from support.namespaces import Namespace, Namespaces
from support.patience import eventually
from support.program import Programs
from support.road import device, filtered, route
from support.tail import Tail

HELD = 500
FLOOD = 1_000_000


class Place(Middle):
    """The three networks, and the stranger's."""

    def __init__(self, namespaces: Namespaces, programs: Programs, folders: pytest.TempPathFactory) -> None:
        super().__init__(namespaces, programs, folders.mktemp("data"))
        self.stranger = namespaces.make()
        namespaces.join(self.middle, self.stranger, 3)
        for number, end in enumerate((self.client, self.origin, self.stranger), 1):
            route(end, 0, number, 1)
        self.wire = Wire(self.stranger, device(self.stranger, 3), mac(self.middle, device(self.middle, 3)))


def mac(namespace: Namespace, name: str) -> str:
    with namespace, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as probe:
        probe.bind((name, 0))
        address: bytes = probe.getsockname()[4]
    return address.hex(":")


@pytest.fixture(scope="module")
def place(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    made = Place(namespaces, module_programs, tmp_path_factory)
    made.edge.start()
    yield made
    made.wire.close()
    made.edge.close()
    made.edge.stop()
    made.flush()


def opened(place: Place) -> int:
    found: int = place.path()["verdicts"]["opened"]
    return found


# Nobody there.


@pytest.mark.parametrize("family", [4, 6])
def test_ports_without_an_application_answer_as_if_nothing_were_there(place: Place, family: int) -> None:
    with (
        closing(BothEnds(place, "kernel", family, ports=3)) as ends,
        closing(BothEnds(place, "kernel", family, "udp")) as other,
    ):
        client, server = ends.pair()
        source = server.getpeername()
        before = opened(place)
        for port in (ends.port - 1, ends.port + 3, other.port, 1, 65_535):
            with place.client, pytest.raises(ConnectionRefusedError):
                socket.create_connection((EDGE[family], port), timeout=5)
        for port in (other.port - 1, other.port + 1, ends.port, 1, 65_535):
            with place.client:
                probe = other.make_socket()
            probe.connect((EDGE[family], port))
            probe.send(b"anybody there?")
            with pytest.raises(ConnectionRefusedError):
                probe.recv(1)
        # What the origin sees of the edge is no way in, for it or for anyone, and nor is the origin itself.
        for where in (place.origin, place.client, place.stranger):
            for port in (source[1], ends.port, source[1] + 1):
                with where, pytest.raises(ConnectionRefusedError):
                    socket.create_connection((source[0], port), timeout=5)
        assert opened(place) == before
        assert echoes_both_ways(client, server)


# Strangers who pretend.

LONGER_THAN_A_DOUBT_S = 4.5
OFFS = [1, -1, 2, -2, 1000, -1000, 100_000, -100_000, 1 << 23, -(1 << 23), 1 << 26, -(1 << 26), 1 << 31]


def guesses(client: tuple[str, int], edge: tuple[str, int], sends: int, expects: int) -> Iterator[bytes]:
    """As the client, near what it would send: everything but exactly that. None of it is of use to an endpoint."""
    for off in OFFS:
        for flags, acks in itertools.product(
            [RST, RST | ACK, FIN, SYN, SYN | ACK, 0, FIN | SYN | RST | PSH], [expects, 0]
        ):
            yield tcp(client, edge, flags, sends + off, acks)
        for wrong in (expects + 1, expects + (1 << 24), expects - (1 << 27), expects + (1 << 31), 0):
            yield tcp(client, edge, FIN | ACK, sends + off, wrong)
            yield tcp(client, edge, PSH | ACK, sends + off, wrong, b"spoofed")
        if abs(off) >= 100_000 * 80:  # outside of any window that an end has offered
            yield tcp(client, edge, PSH | ACK, sends + off, expects, b"spoofed")
            yield tcp(client, edge, FIN | ACK, sends + off, expects)


def a_conversation_among_guesses(place: Place, family: int, proxy: str) -> None:
    with closing(BothEnds(place, "kernel", family, proxy_protocol=proxy)) as ends:
        client, server = ends.pair()
        if proxy == "v2":
            receive(server, len(proxy_v2(ends, client)))
        assert echoes_both_ways(client, server)
        me, edge = client.getsockname()[:2], (EDGE[family], ends.port)
        source, origin = server.getpeername()[:2], (ORIGIN[family], ends.origin_port)
        for silent_s in (0, LONGER_THAN_A_DOUBT_S):
            place.wire.send(guesses(me, edge, *seqs(client)))
            place.wire.send(guesses(origin, source, *seqs(server)))
            time.sleep(silent_s)  # nothing is said: that is what is tested
            assert echoes_both_ways(client, server)
        client.close()
        assert is_at_its_end(server)
        server.close()
        ends.ended("closed", 3 * len(WORDS), 3 * len(WORDS))


def test_who_does_not_know_the_exact_numbers_breaks_no_connection_and_opens_none(place: Place) -> None:
    before, kinds = opened(place), list(itertools.product([4, 6], ["off", "v2"]))
    with ThreadPoolExecutor(len(kinds)) as pool:
        for ended in [pool.submit(a_conversation_among_guesses, place, *kind) for kind in kinds]:
            ended.result()
    assert opened(place) == before + len(kinds)


WORDS = b"still here"


def echoes_both_ways(client: socket.socket, server: socket.socket) -> bool:
    says(client, server, WORDS)
    says(server, client, WORDS)
    return True


def malformed(client: tuple[str, int], edge: tuple[str, int]) -> Iterator[bytes]:
    """Of every kind that a stack drops, from a client that has no flow."""
    whole = tcp(client, edge, SYN, 1, 0)
    is_v4 = whole[0] == 0x45
    for length in range(len(whole)):
        yield whole[:length]
    for words in (0, 1, 4, 6, 15):
        yield tcp(client, edge, SYN, 1, 0, header_words=words) if words != 6 else tcp(client, edge, SYN | FIN, 1)
    for flags in (0, ACK, RST, FIN, SYN | ACK, SYN | FIN, SYN | RST, PSH | ACK, 0xFF):
        yield tcp(client, edge, flags, 1, 1)
    for length in (0, 1, 7, 9, 65_535):
        yield udp(client, edge, b"", length)
    for protocol in (0, 1, 2, 4, 41, 47, 50, 51, 58, 132, 255):
        yield network(client[0], edge[0], protocol, whole[20 if is_v4 else 40 :])
    if is_v4:
        for first in (0x00, 0x40, 0x44, 0x46, 0x4F, 0x55, 0x65):
            yield bytes([first]) + whole[1:]
        for length in (0, 19, 20, 27, 39, 41, 65_535):
            yield whole[:2] + length.to_bytes(2, "big") + whole[4:]
        for fragment in (0x2000, 0x0001, 0x2001, 0x1FFF):
            yield whole[:6] + fragment.to_bytes(2, "big") + whole[8:28]
    else:
        for length in (0, 7, 19, 21, 65_535):
            yield whole[:4] + length.to_bytes(2, "big") + whole[6:]


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_malformed_opens_nothing(place: Place, family: int) -> None:
    with closing(BothEnds(place, "kernel", family)) as ends, closing(BothEnds(place, "kernel", family, "udp")) as other:
        client, server = ends.pair()
        before = place.path()["verdicts"]
        for to in (ends, other):
            sent = place.wire.send(malformed((STRANGER[family], 5555), (EDGE[family], to.port)))
            assert sent > 50
        # Of a VLAN that the edge is not in.
        place.wire.send([tcp((STRANGER[family], 5555), (EDGE[family], ends.port), SYN, 1)], vlan=5)
        # Errors about what was never sent, to whoever that might be.
        quoted = tcp((EDGE[family], ends.port), (STRANGER[family], 5555), ACK, 1, 1)
        kinds = (
            [(3, code) for code in range(5)] + [(11, 0), (12, 0)] if family == 4 else [(1, 4), (2, 0), (3, 0), (4, 0)]
        )
        for kind, code in kinds:
            place.wire.send([icmp(STRANGER[family], EDGE[family], kind, code, quoted, 1280)])
        assert echoes_both_ways(client, server)
        after = place.path()["verdicts"]
        assert (after["opened"], after["error_translated"]) == (before["opened"], before["error_translated"])


STRANGER = {4: "198.18.3.2", 6: "2001:db8:3::2"}


# A flood.


@pytest.mark.alone
def test_a_flood_of_first_packets_keeps_every_two_way_flow_and_lets_others_in(place: Place) -> None:
    with closing(BothEnds(place, "kernel", 4)) as ends, ThreadPoolExecutor(1) as pool:
        tail = Tail(place.edge, ends.id)
        listener = ends.listen()
        pairs = [ends.pair(listener) for _ in range(HELD)]
        # The origin never hears of the flood: its own queue is not what is tested.
        unheard = f"tcp dport {ends.origin_port} tcp flags & syn == syn tcp window {FORGED_WINDOW} drop"
        with filtered(place.origin, "prerouting", unheard, priority=-300):
            syn = tcp(("198.18.128.1", 1024), (EDGE[4], ends.port), SYN, seq=1)
            began_s = time.monotonic()
            flood = pool.submit(place.wire.flood, syn, FLOOD)
            while not flood.done():
                late = ends.pair(listener)  # as one of the flood, to a server that answers
                pairs.append(late)
                for client, server in [*pairs[:: HELD // 10], late]:
                    assert echoes_both_ways(client, server)
            flood.result()
            took_s = time.monotonic() - began_s
        assert len(pairs) > HELD
        verdicts = place.path()["verdicts"]
        for client, server in pairs:
            assert echoes_both_ways(client, server)
        names = {f"{client.getsockname()[0]}:{client.getsockname()[1]}" for client, _ in pairs}
        for client, server in pairs:
            client.close()
            assert is_at_its_end(server)
            server.close()
        connects = eventually(lambda: told(tail, "connect", names), 20, every_s=0.2)
        ends_of = eventually(lambda: told(tail, "disconnect", names), 20, every_s=0.2)
        assert {record["cause"] for record in ends_of.values()} == {"closed"}
        assert all(record["client_bytes"] % len(WORDS) == 0 and record["client_bytes"] for record in ends_of.values())
        assert {record["flow"] for record in connects.values()} == {record["flow"] for record in ends_of.values()}
        let_in = len(pairs) - HELD
        print(f"{FLOOD:,} in {took_s:.1f} s, {let_in} let in meanwhile, {len(tail.records)} records, {verdicts}")
        tail.close(wake=lambda: ends.pair(listener))


def told(tail: Tail, kind: str, clients: set[str]) -> dict[str, dict[str, Any]]:
    """The one record of this kind of each of these clients, once all are there."""
    found = [record for record in tail.of(kind=kind) if record["client"] in clients]
    assert len(found) == len(clients), f"{len(found)} of {len(clients)}"
    return {record["client"]: record for record in found}
