"""The fast path over networks that lose, repeat, reorder, narrow and change: what the ends say arrives, once."""

import itertools
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing

import pytest
from support.both_ends import BothEnds, is_at_its_end, noise, proxy_v2, receive, says
from support.detour import detour, late, twice
from support.namespaces import Namespaces
from support.program import Programs
from support.road import Road, filtered

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


def a_conversation(road: Road, family: int, proxy: str, count: int) -> None:
    """Both ways at once, closed in order, told to the byte."""
    with closing(BothEnds(road, "kernel", family, proxy_protocol=proxy)) as ends, ThreadPoolExecutor(1) as pool:
        client, server = ends.pair()
        for side in (client, server):
            side.settimeout(30)
        if proxy == "v2":
            header = proxy_v2(ends, client)
            assert receive(server, len(header)) == header
        other_way = pool.submit(says, server, client, noise(count))
        says(client, server, noise(count))
        other_way.result()
        client.shutdown(socket.SHUT_WR)
        assert is_at_its_end(server)
        server.close()
        assert is_at_its_end(client)
        client.close()
        ends.ended("closed", count, count)


def conversations(road: Road, count: int) -> None:
    with ThreadPoolExecutor(len(KINDS)) as pool:
        for ended in [pool.submit(a_conversation, road, family, proxy, count) for family, proxy in KINDS]:
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
        conversations(road, 200_000)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_narrow_link_that_says_so_is_told_to_whoever_sends(road: Road, side: str) -> None:
    with road.narrow(side):
        conversations(road, 200_000)
