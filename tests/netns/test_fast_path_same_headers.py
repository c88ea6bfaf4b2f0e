"""What an origin is told of its client, and the bytes behind that, do not depend on who carries a flow."""

import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from support.both_carriers import Case, Runs, begun, for_both_carriers, middle_of_both
from support.both_ends import BothEnds, is_at_its_end, noise, over, proxy_v2, receive, says
from support.carried import CLIENT, EDGE, Middle
from support.namespaces import Namespaces
from support.program import Programs

LARGE = 3_000_000
CASES: list[Case] = []


def case(act: Case) -> Case:
    CASES.append(act)
    return act


def v1(ends: BothEnds, client: socket.socket) -> list[str]:
    return [
        "PROXY",
        f"TCP{ends.family}",
        CLIENT[ends.family],
        EDGE[ends.family],
        str(client.getsockname()[1]),
        str(ends.port),
    ]


@case
def an_origin_is_told_of_the_client_by_proxy_v2_and_the_stream_is_exact(
    middle: Middle, carrier: str, family: int
) -> None:
    with closing(BothEnds(middle, carrier, family, proxy_protocol="v2")) as ends, ThreadPoolExecutor(1) as pool:
        client, server = ends.pair()
        says(server, client, b"220 welcome")  # before the client has said anything
        client.sendall(b"first")
        assert receive(server, len(proxy_v2(ends, client)) + 5) == proxy_v2(ends, client) + b"first"
        other_way = pool.submit(says, server, client, noise(LARGE))
        says(client, server, noise(LARGE))
        other_way.result()
        client.shutdown(socket.SHUT_WR)
        assert is_at_its_end(server)
        server.close()
        assert is_at_its_end(client)
        ends.ended("closed", LARGE + 5, LARGE + 11)
        ends.counted(bytes_ingress=LARGE + 5, bytes_egress=LARGE + 11)


@case
def ends_that_speak_multipath_tcp_understand_each_other(middle: Middle, carrier: str, family: int) -> None:
    for proxy in ("off", "v2"):
        with closing(BothEnds(middle, carrier, family, proxy_protocol=proxy)) as ends, ThreadPoolExecutor(1) as pool:
            ends.protocol_number = IPPROTO_MPTCP
            client, server = ends.pair()
            header = proxy_v2(ends, client) if proxy == "v2" else b""
            client.sendall(b"first")
            assert receive(server, len(header) + 5) == header + b"first"
            other_way = pool.submit(says, server, client, noise(LARGE))
            says(client, server, noise(LARGE))
            other_way.result()
            client.close()
            assert is_at_its_end(server)
            server.close()
            ends.ended("closed", LARGE + 5, LARGE)


IPPROTO_MPTCP = 262


@case
def an_origin_is_told_of_the_client_by_proxy_v1(middle: Middle, carrier: str, family: int) -> None:
    with closing(BothEnds(middle, carrier, family, proxy_protocol="v1")) as ends:
        client, server = ends.pair()
        client.sendall(b"first")
        line = b""
        while not line.endswith(b"\r\n"):
            line += receive(server, 1)
        words = line.decode().split()
        # The kernel writes IPv6 addresses in full; they are the same.
        told = [socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, word) for word in words[2:4]]
        wanted = v1(ends, client)
        assert told == [socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, w) for w in wanted[2:4]]
        assert words[:2] + words[4:] == wanted[:2] + wanted[4:]
        assert receive(server, 5) == b"first"
        client.close()
        assert is_at_its_end(server)
        server.close()
        ends.ended("closed", 5, 0)


@case
def each_datagram_or_the_first_tells_of_the_client_by_proxy_v2(middle: Middle, carrier: str, family: int) -> None:
    for every in ("first", "every"):
        policy = {"udp_header": every, "udp_idle_timeout_s": 1}
        with closing(BothEnds(middle, carrier, family, "udp", proxy_protocol="v2", x_causeway=policy)) as ends:
            server, client = ends.listen(), ends.client()
            for count, size in enumerate([0, 1, 1200, 0]):
                over(client, server, noise(size), proxy_v2(ends, client) if every == "every" or not count else b"")
            ends.ended("idle_timeout", 1201, 1201)
            ends.counted(bytes_ingress=1201, bytes_egress=1201, datagrams_ingress=4, datagrams_egress=4)


@case
def datagrams_that_travel_as_one_buffer_stay_apart(middle: Middle, carrier: str, family: int) -> None:
    for header in ("off", "v2", "simple"):
        policy = {"udp_header": "every"}
        with closing(BothEnds(middle, carrier, family, "udp", proxy_protocol=header, x_causeway=policy)) as ends:
            server, client = ends.listen(), ends.client()
            told = b""
            if header == "v2":
                told = proxy_v2(ends, client)
            elif header == "simple":
                told = simple(CLIENT[family], client.getsockname()[1], EDGE[family], ends.port)
            back = told if header == "simple" else b""
            over(client, server, b"alone", told, back)
            client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 300)
            words = noise(1450)
            client.send(words)
            client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
            for begin in range(0, 1450, 300):
                heard, source = server.recvfrom(65_536)
                assert heard == told + words[begin : begin + 300], f"{header}: {len(heard)} bytes"
                server.sendto(back + words[begin : begin + 300], source)
                assert client.recv(65_536) == words[begin : begin + 300]
            over(client, server, b"alone again", told, back)
            ends.counted(bytes_ingress=1466, bytes_egress=1466, datagrams_ingress=7, datagrams_egress=7)


UDP_SEGMENT = 103


def simple(client: str, client_port: int, edge: str, edge_port: int) -> bytes:
    mapped = [socket.inet_pton(socket.AF_INET6, host if ":" in host else f"::ffff:{host}") for host in (client, edge)]
    return b"\x56\xec" + b"".join(mapped) + struct.pack("!HH", client_port, edge_port)


@case
def simple_proxy_protocol_is_put_on_and_taken_off_and_answers_for_others_are_dropped(
    middle: Middle, carrier: str, family: int
) -> None:
    policy = {"udp_idle_timeout_s": 1}
    with closing(BothEnds(middle, carrier, family, "udp", proxy_protocol="simple", x_causeway=policy)) as ends:
        server, client = ends.listen(), ends.client()
        own_port = client.getsockname()[1]
        header = simple(CLIENT[family], own_port, EDGE[family], ends.port)
        for size in (0, 1, 1200, 0):
            over(client, server, noise(size), header, header)
        client.send(b"who is it for?")
        _, source = server.recvfrom(100)
        for wrong in (
            b"no header at all, but as long as one is",
            b"short",
            simple(CLIENT[family], own_port + 1, EDGE[family], ends.port),
            simple(ORIGIN_OF_NOBODY[family], own_port, EDGE[family], ends.port),
            simple(CLIENT[family], own_port, EDGE[family], ends.port + 1),
        ):
            server.sendto(wrong + b"not this", source)
        server.sendto(header + b"this", source)
        assert client.recv(100) == b"this"
        ends.ended("idle_timeout", 1215, 1205)
        ends.counted(datagrams_ingress=5, datagrams_egress=5, datagrams_dropped=5)


ORIGIN_OF_NOBODY = {4: "198.18.1.77", 6: "2001:db8:1::77"}


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
