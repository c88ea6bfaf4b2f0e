"""What both ends of a session of datagrams see, and what is told of it, does not depend on who carries it."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from support.both_carriers import Case, Runs, begun, for_both_carriers, middle_of_both
from support.both_ends import BothEnds, noise, over
from support.carried import Middle
from support.namespaces import Namespaces
from support.program import Programs

CASES: list[Case] = []


def case(act: Case) -> Case:
    CASES.append(act)
    return act


SIZES = [0, 1, 1200, 1472, 1473, 9000, 65_507, 0]


@case
def datagrams_of_every_size_pass_both_ways(middle: Middle, carrier: str, family: int) -> None:
    policy = {"udp_idle_timeout_s": 1}
    with closing(BothEnds(middle, carrier, family, "udp", x_causeway=policy)) as ends:
        server, client = ends.listen(), ends.client()
        for size in SIZES:
            over(client, server, noise(size))
        total = sum(SIZES)
        ends.counted(bytes_ingress=total, bytes_egress=total, datagrams_dropped=0, connections_total=1)
        ends.counted(datagrams_ingress=len(SIZES), datagrams_egress=len(SIZES))
        ends.ended("idle_timeout", total, total)
        ends.counted(connections_open=0)


@case
def datagrams_of_a_range_map_by_offset_and_clients_do_not_mix(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, "udp", ports=11)) as ends:
        servers = {shift: ends.listen(shift) for shift in (0, 10)}
        clients = [(shift, ends.client(shift)) for shift in (0, 10) for _ in range(5)]
        for _ in range(3):
            for shift, client in clients:
                over(client, servers[shift], noise(100))
        ends.counted(connections_total=10, connections_open=10, datagrams_ingress=30, datagrams_egress=30)
        assert all(ends.is_by_its_carrier(record) for record in ends.records())


@case
def a_closed_port_of_the_origin_is_told_to_the_client(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, "udp")) as ends:
        client = ends.client()
        client.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
        ends.ended("origin_port_unreachable", 14, 0)


@case
def an_origin_that_never_answers_is_counted_one_way(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, "udp", x_causeway={"udp_idle_timeout_s": 1})) as ends:
        server, client = ends.listen(), ends.client()
        for size in (10, 0, 20):
            client.send(noise(size))
            server.recv(100)
        ends.ended("idle_timeout", 30, 0)
        ends.counted(connections_total=1, connections_open=0, bytes_ingress=30, bytes_egress=0, datagrams_ingress=3)


@case
def sessions_of_a_deleted_application_finish(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, "udp", x_causeway={"udp_idle_timeout_s": 1})) as ends:
        server, client = ends.listen(), ends.client()
        over(client, server, b"before")
        middle.edge.delete_application(ends.id)
        with pytest.raises(ConnectionRefusedError):
            after = ends.client()
            after.send(b"after")
            after.recv(1)
        over(client, server, b"still here")
        ends.ended("idle_timeout", 16, 16)


@case
def an_update_leaves_sessions_where_they_are(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, "udp")) as ends:
        server, client = ends.listen(0), ends.client()
        over(client, server, b"before")
        moved = ends.listen(1)
        ends.update(ends.origin(1))
        over(client, server, b"still there")
        over(ends.client(), moved, b"the new one")
        ends.counted(connections_total=2, bytes_ingress=28)


@pytest.fixture(scope="module")
def middle(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Middle]:
    with middle_of_both(namespaces, module_programs, tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="module")
def runs(middle: Middle, request: pytest.FixtureRequest) -> Iterator[Runs]:
    with begun(middle, request) as made:
        yield made


@for_both_carriers(CASES)
def test_both_carriers_do_the_same(runs: Runs, act: Case, carrier: str, family: int) -> None:
    runs.end(act, carrier, family)
