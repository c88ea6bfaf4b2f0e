"""What BIRD 2.0 says on its control socket, whole and in pieces; and what it is to read."""

import random
from ipaddress import ip_network

import pytest

from causeway.edge.bird import BirdTrouble, ReplyReader, check_configured, check_greeting, render, route_count
from causeway.model.anycast import Terms, parse_anycast, parse_community

GREETING = b"0001 BIRD 2.0.12 ready.\n"
CASES = [  # bytes, replies: the code and text of the last line, and how many lines there are
    (GREETING, [(1, "BIRD 2.0.12 ready.", 1)]),
    (b"0002-Reading configuration from bird.conf\n0003 Reconfigured\n", [(3, "Reconfigured", 2)]),
    (b"0002-Reading configuration from bird.conf\n8002 a:9:1 syntax error\n", [(8002, "a:9:1 syntax error", 2)]),
    (b"1007-Table master4:\n 198.18.100.7/32\n \tdev x\n0000 \n", [(0, "", 4)]),
    (b"1007-0 of 1 routes for 1 networks in table master4\n0000 \n", [(0, "", 2)]),
    (b"+0001 <INFO> Reconfigured\n0003 Reconfigured\n", [(3, "Reconfigured", 1)]),
    (b"0003 Reconfigured\n0000 \n", [(3, "Reconfigured", 1), (0, "", 1)]),
    (b"0003 Reconf", []),
]  # fmt: skip
WRONG = [
    b"hello\n",
    b"\n",
    b" a continuation of nothing\n",
    b"12 short\n",
    b"0001_ready\n",
    b"\xff\xfe\x00\x01 x\n",
    b"x" * 70_000,
]


def read(chunks: list[bytes]) -> list[tuple[int, str, int]]:
    reader = ReplyReader()
    return [(reply.code, reply.text, len(reply.lines)) for chunk in chunks for reply in reader.feed(chunk)]


@pytest.mark.parametrize(("said", "expected"), CASES)
def test_replies_are_read_whole_byte_by_byte_and_with_what_follows(
    said: bytes, expected: list[tuple[int, str, int]]
) -> None:
    assert read([said]) == expected
    assert read([bytes([byte]) for byte in said]) == expected
    if expected:
        assert read([said + b"0003 Reconf"]) == expected


@pytest.mark.parametrize("said", WRONG)
def test_what_bird_never_says_is_refused(said: bytes) -> None:
    with pytest.raises(BirdTrouble):
        ReplyReader().feed(said)


def test_a_reply_that_never_ends_is_cut_off() -> None:
    reader = ReplyReader()
    with pytest.raises(BirdTrouble, match="more than"):
        for _ in range(10_000):
            reader.feed(b"1007-198.18.100.7/32\n")


def test_noise_is_refused_or_read_and_nothing_else() -> None:
    chance = random.Random(7)
    for _ in range(3_000):
        reader = ReplyReader()
        noise = bytes(chance.choice(b"0123 -+\nab\xff") for _ in range(chance.randrange(60)))
        try:
            for reply in reader.feed(noise):
                assert 0 <= reply.code <= 9999
        except BirdTrouble:
            continue


def test_only_bird_greets_like_bird() -> None:
    [reply] = ReplyReader().feed(GREETING)
    assert check_greeting(reply) == "BIRD 2.0.12"
    with pytest.raises(BirdTrouble, match="another program"):
        check_greeting(ReplyReader().feed(b"0001 Quagga ready.\n")[0])


@pytest.mark.parametrize("said", [b"0003 Reconfigured\n", b"0004 Reconfiguration in progress\n", b"0018 confirmed\n"])
def test_a_configuration_is_taken(said: bytes) -> None:
    check_configured(ReplyReader().feed(said)[0])


@pytest.mark.parametrize("said", [b"8002 bird.conf:1 syntax error\n", b"9001 syntax error\n", b"0006 shutting down\n"])
def test_a_configuration_is_refused(said: bytes) -> None:
    with pytest.raises(BirdTrouble, match="refuses its configuration"):
        check_configured(ReplyReader().feed(said)[0])


def test_routes_in_force_are_counted() -> None:
    [reply] = ReplyReader().feed(b"1007-2 of 3 routes for 2 networks in table master4\n0000 \n")
    assert route_count(reply, "causeway_anycast4") == 2
    [reply] = ReplyReader().feed(b"9001 syntax error, unexpected CF_SYM_UNDEFINED, expecting CF_SYM_KNOWN\n")
    with pytest.raises(BirdTrouble, match="must include it"):
        route_count(reply, "causeway_anycast4")
    with pytest.raises(BirdTrouble, match="does not say"):
        route_count(ReplyReader().feed(b"0000 \n")[0], "causeway_anycast4")


def test_the_file_has_a_protocol_for_each_family_whether_it_has_a_route_or_not() -> None:
    terms = Terms(((64512, 100), (4_200_000_000, 1, 2)), 50)
    told = {ip_network("198.18.100.9/32"): Terms(), ip_network("198.18.100.7/32"): terms}
    assert render(told, {6, 4}, "causeway0").splitlines()[1:] == [
        "protocol static causeway_anycast4 {",
        "\tipv4;",
        "\tcheck link;",
        '\troute 198.18.100.7/32 via "causeway0" { bgp_community.add((64512, 100)); '
        "bgp_large_community.add((4200000000, 1, 2)); bgp_med = 50; };",
        '\troute 198.18.100.9/32 via "causeway0";',
        "}",
        "protocol static causeway_anycast6 {",
        "\tipv6;",
        "\tcheck link;",
        "}",
    ]


def test_communities_and_prefixes_are_read_strictly() -> None:
    assert parse_community("65535:0") == (65535, 0)
    assert parse_community("4200000000:1:2") == (4_200_000_000, 1, 2)
    for wrong in ("65536:0", "1", "1:2:3:4", "a:b", "-1:2", "1: 2", "4294967296:1:1", "", "\u0661:2"):
        with pytest.raises(ValueError):
            parse_community(wrong)
    for wrong in ("0.0.0.0/0", "198.18.100.7/24", "127.0.0.1/32", "224.0.0.0/8", "fe80::/64", "x"):
        with pytest.raises(ValueError):
            parse_anycast(wrong)
