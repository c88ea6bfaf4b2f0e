"""The fast path over networks that lose, repeat, reorder, narrow and change: what the ends say arrives, once."""

import itertools
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, suppress

import pytest
from support.both_ends import BothEnds, is_at_its_end, noise, proxy_v2, receive, says
from support.carried import EDGE
from support.detour import after, detour, late, twice
from support.frames import begin_at
from support.namespaces import Namespace, Namespaces
from support.patience import eventually
from support.program import Programs
from support.road import NARROW, Road, device, filtered, forward, route

KINDS = list(itertools.product([4, 6], ["off", "v2"]))


@pytest.fixture(scope="module")
def road(namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    made = Road(namespaces, module_programs, tmp_path_factory.mktemp("data"))
    made.edge.start()
    _ = made.edge.applications
    yield made
    made.edge.close()
    made.edge.stop()
    made.flush()


def a_conversation(road: Road, family: int, proxy: str, up: int, down: int) -> None:
    """Both ways at once, closed in order, told to the byte."""
    with closing(BothEnds(road, "kernel", family, proxy_protocol=proxy)) as ends, ThreadPoolExecutor(1) as pool:
        client, server = ends.pair()
        if proxy == "v2":
            header = proxy_v2(ends, client)
            assert receive(server, len(header)) == header
        other_way = pool.submit(says, server, client, noise(down))
        says(client, server, noise(up))
        other_way.result()
        client.shutdown(socket.SHUT_WR)
        assert is_at_its_end(server)
        server.close()
        assert is_at_its_end(client)
        client.close()
        ends.ended("closed", up, down)


def conversations(road: Road, up: int = 200_000, down: int = 200_000) -> None:
    with ThreadPoolExecutor(len(KINDS)) as pool:
        for ended in [pool.submit(a_conversation, road, family, proxy, up, down) for family, proxy in KINDS]:
            ended.result()


Harm = Callable[[Road], list[AbstractContextManager[object]]]
HARMS: dict[str, Harm] = {
    "none": lambda road: [],
    "loss": lambda road: [
        filtered(router, "forward", "meta l4proto tcp numgen random mod 100 < 2 drop")
        for router in (road.left, road.right)
    ],
    "repetition": lambda road: [detour(router, 10, twice) for router in (road.left, road.right)],
    "reordering": lambda road: [detour(router, 5, late) for router in (road.left, road.right)],
}
HARMS["all of it"] = lambda road: HARMS["loss"](road) + HARMS["reordering"](road)


@pytest.mark.parametrize("harm", HARMS)
def test_what_a_network_does_to_packets_does_nothing_to_streams_or_their_records(road: Road, harm: str) -> None:
    with ExitStack() as stack:
        for done in HARMS[harm](road):
            stack.enter_context(done)
        conversations(road)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_narrow_link_that_says_so_is_told_to_whoever_sends(road: Road, side: str) -> None:
    with road.narrow(side):
        conversations(road)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_narrow_link_that_says_nothing_behind_the_edge_is_found_out(road: Road, side: str) -> None:
    """Whoever sends is told by the edge, which sees what is sent again and again."""
    with road.narrow(side, is_told=False):
        large_goes_down = side == "left"
        conversations(road, up=1000 if large_goes_down else 200_000, down=200_000 if large_goes_down else 1000)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_narrow_link_of_the_edge_itself_is_known_from_the_handshake_on(road: Road, side: str) -> None:
    """What is too large for it never reaches the edge, so nobody could tell whoever sent it."""
    name, before = device(road.middle, 1 if side == "left" else 2), road.path()["verdicts"].get("too_big", 0)
    road.middle.ip("link", "set", name, "mtu", str(NARROW))
    conversations(road)
    road.middle.ip("link", "set", name, "mtu", "1500")
    assert road.path()["verdicts"]["too_big"] == before


@pytest.mark.parametrize("header", ["off", "v2"])
def test_who_sends_datagrams_that_must_not_be_split_learns_what_fits_with_the_header(road: Road, header: str) -> None:
    policy = {"udp_header": "every"}
    with (
        road.narrow("right"),
        closing(BothEnds(road, "kernel", 4, "udp", proxy_protocol=header, x_causeway=policy)) as ends,
    ):
        server, client = ends.listen(), ends.client()
        client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, ALWAYS)
        more = len(proxy_v2(ends, client)) if header == "v2" else 0
        client.send(bytes(NARROW - 28))
        if more:
            told_mtu(client, NARROW - more)
        else:
            client.send(bytes(NARROW - 28 + 1))
            told_mtu(client, NARROW)
        client.send(b"the largest".ljust(NARROW - 28 - more))
        heard = b""
        while not heard[more:].startswith(b"the largest"):
            heard = server.recv(65_536)
        assert len(heard) == NARROW - 28


IP_MTU_DISCOVER, ALWAYS, IP_MTU = 10, 2, 14


def told_mtu(client: socket.socket, wanted: int) -> None:
    eventually(lambda: client.getsockopt(socket.IPPROTO_IP, IP_MTU) == wanted)
    client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_ends_that_probe_for_narrow_links_find_them_through_the_edge(road: Road) -> None:
    ends = (road.client, road.origin)
    with road.narrow("left", is_told=False), road.narrow("right", is_told=False):
        for end in ends:
            end.setting("ipv4/tcp_mtu_probing", "1")
        conversations(road, 100_000, 100_000)
    for end in ends:
        end.setting("ipv4/tcp_mtu_probing", "0")


# Closing and opening.

Held = dict[int, tuple[BothEnds, socket.socket, socket.socket]]


@pytest.fixture
def held(road: Road) -> Iterator[Held]:
    """A connection of each family that is up."""
    made = {family: BothEnds(road, "kernel", family) for family in (4, 6)}
    yield {family: (ends, *ends.pair()) for family, ends in made.items()}
    for ends in made.values():
        ends.close()


def talks(held: Held) -> None:
    for _, client, server in held.values():
        says(client, server, b"still here")
        says(server, client, b"as ever")


def closed_in_order(held: Held) -> None:
    """The client first; told once, to the byte."""
    for _, client, server in held.values():
        client.close()
        assert is_at_its_end(server)
        server.close()


def test_both_sides_may_close_at_once(road: Road, held: Held) -> None:
    with detour(road.left, 100, after(0.05)):
        for _, client, server in held.values():
            client.shutdown(socket.SHUT_WR)
            server.shutdown(socket.SHUT_WR)
        for ends, client, server in held.values():
            assert is_at_its_end(client) and is_at_its_end(server)
            ends.ended("closed", 0, 0)


def test_the_first_fin_of_each_side_may_be_lost(road: Road, held: Held) -> None:
    talks(held)
    with lost_fin(road.left, 11), lost_fin(road.right, 12):
        closed_in_order(held)
        for ends, _, _ in held.values():
            ends.ended("closed", 10, 7)


def lost_fin(router: Namespace, network: int) -> AbstractContextManager[None]:
    """Every other FIN that comes from there, beginning with the first."""
    return filtered(
        router, "forward", f'iifname "{device(router, network)}" tcp flags & fin == fin numgen inc mod 2 == 0 drop'
    )


@pytest.mark.parametrize("family", [4, 6])
def test_a_client_may_come_again_from_its_port_at_once(road: Road, family: int) -> None:
    """The origin closes first, so it has the pair of addresses in TIME_WAIT, and the edge's source port is the same."""
    with closing(BothEnds(road, "kernel", family)) as ends:
        listener, sources = ends.listen(), set()
        for turn in range(5):
            client = ends.client(own_port=45_678)
            server = ends.accept(listener)
            sources.add(server.getpeername())
            says(client, server, bytes(turn))
            server.close()
            assert is_at_its_end(client)
            client.close()
        assert len(sources) == 1
        records = ends.told(5)
        assert sorted(r["client_bytes"] for r in records if r["kind"] == "disconnect") == [0, 1, 2, 3, 4]
        assert len({r["flow"] for r in records}) == 5, "each has a number of its own"


LAST_BEFORE_IT_WRAPS = 0xFFFF_0000


@pytest.mark.parametrize("proxy", ["off", "v2"])
@pytest.mark.parametrize("family", [4, 6])
def test_both_sides_may_open_at_once_and_their_numbers_wrap(road: Road, family: int, proxy: str) -> None:
    with closing(BothEnds(road, "kernel", family, proxy_protocol=proxy)) as ends:
        with road.origin:
            server = ends.make_socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((ends.origin_at, ends.origin_port))
        begin_at(server, LAST_BEFORE_IT_WRAPS)
        server.setblocking(False)

        def meet(packet: bytes) -> list[float]:
            """Once the client's SYN is on its way, the origin's goes to where that came from."""
            source = packet[12:16] if family == 4 else packet[8:24]
            where = socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, source)
            if where != ends.origin_at:
                port = int.from_bytes(packet[20:22] if family == 4 else packet[40:42], "big")
                with suppress(BlockingIOError):
                    server.connect((where, port))
            return [0.1]

        with detour(road.right, 100, meet, "tcp flags & (syn | ack) == syn") as crossing:
            with road.client:
                client = ends.make_socket()
            begin_at(client, LAST_BEFORE_IT_WRAPS)
            client.connect((EDGE[family], ends.port))
            server.settimeout(10)
            assert crossing.packets == 2, "one SYN of each side"
        client.sendall(b"first")
        header = proxy_v2(ends, client) if proxy == "v2" else b""
        assert receive(server, len(header) + 5) == header + b"first"
        with ThreadPoolExecutor(1) as pool:
            other_way = pool.submit(says, server, client, noise(200_000))
            says(client, server, noise(200_000))
            other_way.result()
        client.close()
        assert is_at_its_end(server)
        server.close()
        ends.ended("closed", 200_005, 200_000)


# Ways and neighbours.


def test_a_neighbour_may_change_its_address(road: Road, held: Held) -> None:
    talks(held)
    neighbours = [(road.left, 1), (road.right, 2)]
    for router, network in neighbours:
        router.ip("link", "set", device(router, network), "address", f"02:00:00:00:77:{network:02x}")
    talks(held)
    closed_in_order(held)
    for ends, _, _ in held.values():
        ends.ended("closed", 20, 14)


def test_the_way_to_the_origin_may_change_to_another_gateway(road: Road, held: Held) -> None:
    talks(held)
    interfaces = road.path()["interfaces"]
    other = road.namespaces.make()
    road.namespaces.join(road.middle, other, 3)
    road.namespaces.join(other, road.origin, 13)
    forward(other)
    route(other, 12, 13, 2)
    route(other, 0, 3, 1)
    eventually(lambda: road.path()["interfaces"] == interfaces + 1)
    route(road.middle, 12, 3, 2)
    route(road.origin, 0, 13, 1)
    try:
        with filtered(road.right, "forward", "drop"):
            talks(held)
            closed_in_order(held)
            for ends, _, _ in held.values():
                ends.ended("closed", 20, 14)
    finally:
        route(road.middle, 12, 2, 2)
        route(road.origin, 0, 12, 1)
