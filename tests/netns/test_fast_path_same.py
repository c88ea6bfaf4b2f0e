"""What both ends of a connection see, and what is told of it, does not depend on who carries it: kernel or engine."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from support.both_carriers import Case, Runs, begun, for_both_carriers, middle_of_both
from support.both_ends import BothEnds, is_at_its_end, noise, receive, says
from support.carried import EDGE, Middle
from support.echo import reset
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs
from support.road import filtered

LARGE = 3_000_000
CASES: list[Case] = []


def case(act: Case) -> Case:
    CASES.append(act)
    return act


@case
def streams_are_exact_both_ways_at_once(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends, ThreadPoolExecutor(1) as pool:
        client, server = ends.pair()
        other_way = pool.submit(says, server, client, noise(LARGE + 1))
        says(client, server, noise(LARGE))
        other_way.result()
        client.close()
        assert is_at_its_end(server)
        server.close()
        ends.ended("closed", LARGE, LARGE + 1)
        ends.counted(connections_total=1, connections_open=0, bytes_ingress=LARGE, bytes_egress=LARGE + 1)


@case
def the_clients_end_reaches_the_origin_which_still_answers(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        client, server = ends.pair()
        says(client, server, b"question")
        client.shutdown(socket.SHUT_WR)
        assert is_at_its_end(server)
        says(server, client, noise(LARGE))
        server.close()
        assert is_at_its_end(client)
        client.close()
        ends.ended("closed", 8, LARGE)


@case
def the_origins_end_reaches_the_client_which_still_sends(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        client, server = ends.pair()
        server.shutdown(socket.SHUT_WR)
        assert is_at_its_end(client)
        says(client, server, noise(LARGE))
        client.close()
        assert is_at_its_end(server)
        ends.ended("closed", LARGE, 0)


@case
def nothing_said_is_nothing_counted(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        client, server = ends.pair()
        client.close()
        assert is_at_its_end(server)
        server.close()
        ends.ended("closed", 0, 0)
        ends.counted(connections_total=1, connections_open=0, bytes_ingress=0, bytes_egress=0, connect_errors_total=0)


@case
def a_reset_of_the_client_resets_the_origin(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        client, server = ends.pair()
        says(client, server, b"12345")
        says(server, client, b"123")
        reset(client)
        with pytest.raises(ConnectionResetError):
            server.recv(1)
        ends.ended("client_reset", 5, 3)
        ends.counted(connections_open=0)


@case
def a_reset_of_the_origin_resets_the_client(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        client, server = ends.pair()
        says(client, server, b"12345")
        says(server, client, b"123")
        reset(server)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        ends.ended("origin_reset", 5, 3)


@case
def a_side_that_closes_with_bytes_unread_resets(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        client, server = ends.pair()
        says(client, server, b"12345")
        server.sendall(b"123")
        assert client.recv(3, socket.MSG_PEEK) == b"123"
        client.close()
        with pytest.raises(ConnectionResetError):
            server.recv(1)
        ends.ended("client_reset", 5, 3)


@case
def a_reset_after_half_a_close_is_a_reset(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        client, server = ends.pair()
        says(client, server, b"12345")
        client.shutdown(socket.SHUT_WR)
        assert is_at_its_end(server)
        reset(server)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        ends.ended("origin_reset", 5, 0)


@case
def an_origin_that_refuses_costs_the_client_its_connection(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        with pytest.raises(ConnectionError):  # refused by the kernel, reset by the engine
            ends.client().recv(1)
        record = eventually(lambda: ends.records(cause="origin_refused"), every_s=0.1)[0]
        assert (record["kind"], record["status"], record["client_bytes"]) == ("originError", 521, 0)
        assert ends.is_by_its_carrier(record)
        ends.counted(connections_total=1, connections_open=0, connect_errors_total=1)
        assert not ends.records(kind="connect") and not ends.records(kind="disconnect")


@case
def an_origin_that_does_not_answer_costs_the_client_its_connection(middle: Middle, carrier: str, family: int) -> None:
    with (
        closing(BothEnds(middle, carrier, family, x_causeway={"connect_timeout_s": 1})) as ends,
        filtered(middle.origin, "prerouting", f"tcp dport {ends.origin_port} drop", table=f"only{ends.port}"),
    ):
        with pytest.raises(ConnectionError):
            ends.client().recv(1)
        record = eventually(lambda: ends.records(cause="origin_connect_timeout"), every_s=0.1)[0]
        assert (record["kind"], record["status"]) == ("originError", 522)
        assert ends.is_by_its_carrier(record)
        ends.counted(connections_total=1, connections_open=0, connect_errors_total=1)
        assert len(ends.records()) == 1


@case
def ports_of_a_range_map_by_offset(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, ports=11)) as ends:
        for shift in (0, 5, 10):
            listener = ends.listen(shift)
            client = ends.client(shift)
            server = ends.accept(listener)
            says(client, server, b"to %d" % shift)
            client.close()
            assert is_at_its_end(server)
            server.close()
        with pytest.raises(ConnectionRefusedError):
            ends.client(11)
        told = ends.told(3)
        for shift in (0, 5, 10):
            of_it = [r for r in told if r["edge"].endswith(f":{ends.port + shift}")]
            assert [r["kind"] for r in of_it] == ["connect", "disconnect"]
            assert all(r["origin"].endswith(f":{ends.origin_port + shift}") for r in of_it)


@case
def bytes_may_come_with_the_first_packet(middle: Middle, carrier: str, family: int) -> None:
    """TCP Fast Open: the origin may have answered before the handshake is over."""
    for end in (middle.client, middle.origin):
        end.setting("ipv4/tcp_fastopen", "3")
    with closing(BothEnds(middle, carrier, family)) as ends:
        listener = ends.listen()
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
        for _ in range(3):
            with middle.client:
                client = ends.make_socket()
            client.settimeout(None)  # the first has to wait for its cookie
            client.sendto(b"question", socket.MSG_FASTOPEN, (EDGE[family], ends.port))
            client.settimeout(10)
            server = ends.accept(listener)
            server.sendall(b"answer")
            assert (receive(server, 8), receive(client, 6)) == (b"question", b"answer")
            was_early = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5] & WITH_SYN
            client.close()
            assert is_at_its_end(server)
            server.close()
        assert was_early or carrier == "engine"
        records = ends.told(3)
        counted = [(r["client_bytes"], r["origin_bytes"]) for r in records if r["kind"] == "disconnect"]
        assert counted == [(8, 6)] * 3


WITH_SYN = 32


@case
def many_connections_are_all_told_and_counted(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        listener, sizes = ends.listen(), range(100)
        for size in sizes:
            client, server = ends.pair(listener)
            says(client, server, noise(size))
            client.close()
            assert is_at_its_end(server)
            server.close()
        told = ends.told(100)
        assert sorted(r["client_bytes"] for r in told if r["kind"] == "disconnect") == list(sizes)
        assert len({r["flow"] for r in told}) == 100 and len(told) == 200
        ends.counted(connections_total=100, connections_open=0, bytes_ingress=sum(sizes), bytes_egress=0)


@case
def a_deleted_application_lets_its_connections_finish(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        listener = ends.listen()
        client, server = ends.pair(listener)
        says(client, server, b"before")
        middle.edge.delete_application(ends.id)
        with pytest.raises(ConnectionRefusedError):
            ends.client()
        says(client, server, noise(LARGE))
        says(server, client, b"after")
        client.close()
        assert is_at_its_end(server)
        server.close()
        ends.ended("closed", LARGE + 6, 5)


@case
def a_deleted_application_that_closes_resets_both_sides(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, x_causeway={"on_delete": "close"})) as ends:
        client, server = ends.pair()
        says(client, server, b"before")
        middle.edge.delete_application(ends.id)
        for side in (client, server):
            with pytest.raises(ConnectionResetError):
                side.recv(1)
        ends.ended("drained", 6, 0)


@case
def an_update_leaves_connections_where_they_are(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        client, server = ends.pair(ends.listen(0))
        says(client, server, b"before")
        moved = ends.listen(1)
        ends.update(ends.origin(1))
        says(client, server, noise(LARGE))
        second, second_server = ends.pair(moved)
        says(second, second_server, b"the new one")
        for closed, left in ((client, server), (second, second_server)):
            closed.close()
            assert is_at_its_end(left)
            left.close()
        told = ends.told(2)
        ended = {r["origin"].rpartition(":")[2]: r["client_bytes"] for r in told if r["kind"] == "disconnect"}
        assert ended == {str(ends.origin_port): LARGE + 6, str(ends.origin_port + 1): 11}
        ends.counted(connections_total=2, connections_open=0, bytes_ingress=LARGE + 17)


@case
def the_carrier_may_change_while_connections_live(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family)) as ends:
        listener = ends.listen()
        client, server = ends.pair(listener)
        says(client, server, b"before")
        ends.fields["x_causeway"]["carrier"] = "engine" if carrier == "kernel" else "kernel"
        ends.update(ends.origin())
        says(client, server, noise(LARGE))
        second, second_server = ends.pair(listener)
        says(second, second_server, b"the new one")
        for closed, left in ((client, server), (second, second_server)):
            closed.close()
            assert is_at_its_end(left)
            left.close()
        ended = [r for r in ends.told(2, is_by_one=False) if r["kind"] == "disconnect"]
        by_its_carrier = {r["client_bytes"]: ends.is_by_its_carrier(r) for r in ended}
        assert by_its_carrier == {LARGE + 6: True, 11: False}
        ends.counted(connections_total=2, connections_open=0, bytes_ingress=LARGE + 17)


def is_over(side: socket.socket) -> bool:
    """The kernel can only reset; the engine closes what nobody complained of."""
    try:
        return side.recv(1) == b""
    except ConnectionResetError:
        return True


@case
def an_idle_connection_is_ended_for_both_sides(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, x_causeway={"idle_timeout_s": 1})) as ends:
        client, server = ends.pair()
        says(client, server, b"a word")
        for side in (client, server):
            assert is_over(side)
        ends.ended("idle_timeout", 6, 0)


@case
def half_a_close_is_ended_in_time(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, x_causeway={"half_close_timeout_s": 1})) as ends:
        client, server = ends.pair()
        says(client, server, b"a word")
        client.shutdown(socket.SHUT_WR)
        assert is_at_its_end(server)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        ends.ended("half_close_timeout", 6, 0)


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
