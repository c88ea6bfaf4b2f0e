"""The Python codecs against the engine's vectors: whole, cut at every byte, with bytes behind."""

import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.model.proxy_protocol import (
    MAX_HEADER,
    NEED_MORE,
    Endpoints,
    Header,
    HeaderError,
    NeedMore,
    SocketAddress,
    Tlv,
    Transport,
    decode_simple,
    encode_simple,
    encode_v1,
    encode_v2,
    parse_header,
)

VECTORS = Path(__file__).parents[3] / "vectors"
TRAILERS = [b"\x00", b"\r\n", b"\x04\x00\x01\x00", b"PROXY UNKNOWN\r\n", b"\xff" * MAX_HEADER]

Case = dict[str, Any]


def unhex(words: str) -> bytes:
    """Read words of hex, each with an optional `*count`."""
    pairs = (word.partition("*") for word in words.split())
    return b"".join(bytes.fromhex(once) * int(count or 1) for once, _, count in pairs)


def load(file: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in json.loads((VECTORS / file).read_text())]


def answer(data: bytes) -> Header | NeedMore | str:
    try:
        return parse_header(data)
    except HeaderError as error:
        return error.code


def endpoints_of(case: Case) -> Endpoints | None:
    return Endpoints.parse(case["source"], case["destination"]) if case["source"] else None


def cuts(data: bytes, decided_at: int) -> list[int]:
    """Every length where it matters and while it is cheap, a sample inside long lists."""
    lengths = range(len(data) + 1)
    return [n for n in lengths if n < 300 or n % 211 == 0 or abs(n - decided_at) < 20]


@pytest.mark.parametrize("case", load("proxy_v1/accept.json") + load("proxy_v2/accept.json"))
def test_header_is_decided_at_its_byte_and_by_nothing_behind_it(case: Case) -> None:
    data = unhex(case["hex"])
    if case.get("need_more"):
        assert {answer(data[:end]) for end in range(len(data) + 1)} == {NEED_MORE}
        return
    decided_at = case["decided_at"] if "error" in case else case["consumed"]
    expected = answer(data)
    if "error" in case:
        assert expected == case["error"]
    else:
        assert isinstance(expected, Header)
        assert (expected.consumed, expected.endpoints) == (case["consumed"], endpoints_of(case))
        if "tlvs" in case:
            assert [(tlv.kind, tlv.value) for tlv in expected.tlvs] == [(int(k, 16), unhex(v)) for k, v in case["tlvs"]]
    for end in cuts(data, decided_at):
        assert answer(data[:end]) == (expected if end >= decided_at else NEED_MORE), f"first {end} bytes"
    for trailer in TRAILERS:
        assert answer(data + trailer) == expected
        assert answer(data[:decided_at] + trailer) == expected


@pytest.mark.parametrize("case", load("proxy_v1/encode.json"))
def test_v1_line_is_written(case: Case) -> None:
    assert encode_v1(Endpoints.parse(case["source"], case["destination"])).decode() == case["text"]


@pytest.mark.parametrize("case", load("proxy_v2/encode.json"))
def test_v2_header_is_written(case: Case) -> None:
    endpoints = Endpoints.parse(case["source"], case["destination"])
    assert encode_v2(endpoints, Transport[case["transport"].upper()]).hex() == case["hex"]


@pytest.mark.parametrize("case", load("simple_proxy/encode.json"))
def test_simple_proxy_header_is_written(case: Case) -> None:
    assert encode_simple(Endpoints.parse(case["source"], case["destination"])).hex() == case["hex"]


@pytest.mark.parametrize("case", load("simple_proxy/decode.json"))
def test_simple_proxy_header_is_read(case: Case) -> None:
    datagram = unhex(case["hex"])
    if "error" in case:
        with pytest.raises(HeaderError, match=case["error"]):
            decode_simple(datagram)
        return
    expected, payload = endpoints_of(case), unhex(case["payload"])
    assert decode_simple(datagram) == (expected, payload)
    assert decode_simple(datagram + b"more") == (expected, payload + b"more")
    for end in range(38):
        with pytest.raises(HeaderError, match="simple_proxy_too_short"):
            decode_simple(datagram[:end])


def test_every_promised_length_is_judged_before_its_bytes() -> None:
    fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    answers = {length: answer(fixed + length.to_bytes(2)) for length in range(0x10000)}
    assert {n for n, said in answers.items() if said == "proxy_v2_too_short"} == set(range(12))
    assert {n for n, said in answers.items() if said == "proxy_v2_tlv"} == {13, 14}
    assert {n for n, said in answers.items() if said == NEED_MORE} == {12, *range(15, 8177)}
    assert {n for n, said in answers.items() if said == "proxy_v2_too_long"} == set(range(8177, 0x10000))


def test_port_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="65536"):
        SocketAddress(IPv4Address("192.0.2.1"), 65536)


addresses = st.one_of(
    st.binary(min_size=4, max_size=4).map(IPv4Address),
    st.binary(min_size=16, max_size=16).map(IPv6Address),
    st.lists(st.sampled_from([b"\0\0", b"\0\0", b"\0\1", b"\xff\xff"]), min_size=8, max_size=8).map(
        lambda groups: IPv6Address(b"".join(groups))
    ),
)
sockets = st.builds(SocketAddress, addresses, st.integers(0, 0xFFFF))
endpoints_strategy = st.builds(Endpoints, sockets, sockets)
tlvs_strategy = st.lists(
    st.builds(Tlv, st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=40)), max_size=6
)


@given(endpoints_strategy, st.binary(max_size=40))
def test_endpoints_survive_v1(endpoints: Endpoints, payload: bytes) -> None:
    line = encode_v1(endpoints)
    assert parse_header(line + payload) == Header(1, len(line), endpoints, Transport.STREAM)
    assert all(parse_header(line[:end]) is NEED_MORE for end in range(len(line)))


@given(endpoints_strategy, st.sampled_from(Transport), tlvs_strategy, st.binary(max_size=40))
def test_endpoints_and_tlvs_survive_v2(
    endpoints: Endpoints, transport: Transport, tlvs: list[Tlv], payload: bytes
) -> None:
    header = encode_v2(endpoints, transport, tlvs)
    assert parse_header(header + payload) == Header(2, len(header), endpoints, transport, tuple(tlvs))
    assert all(parse_header(header[:end]) is NEED_MORE for end in range(len(header)))


@given(endpoints_strategy, st.binary(max_size=40))
def test_endpoints_survive_simple_proxy(endpoints: Endpoints, payload: bytes) -> None:
    assert decode_simple(encode_simple(endpoints) + payload) == (endpoints, payload)


@settings(max_examples=300)
@given(
    st.sampled_from(
        [
            b"",
            b"PROXY TCP6 ",
            b"PROXY TCP4 1.2.3.4 ",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20" + b"\7" * 12,
        ]
    ),
    st.binary(max_size=60),
)
def test_any_bytes_get_one_lasting_answer(start: bytes, rest: bytes) -> None:
    data = start + rest
    answers = [answer(data[:end]) for end in range(len(data) + 1)]
    decided = [said for said in answers if said is not NEED_MORE]
    assert answers[len(answers) - len(decided) :] == decided
    assert all(said == decided[0] for said in decided)
