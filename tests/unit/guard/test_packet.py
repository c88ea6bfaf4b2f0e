"""Frames read as the kernel's program reads them, and any bytes at all without an error."""

from pathlib import Path

import pytest
from guard_frames import ACK, ETHERNET, LINUX, MAC, SYN, ip, tcp, udp
from hypothesis import given
from hypothesis import strategies as st

from causeway.guard.packet import fingerprint, read

GOLDEN = Path(__file__).resolve().parents[3] / "vectors" / "guard" / "packets.txt"
A, B = "192.0.2.1", "198.51.100.10"
A6, B6 = "2001:db8::1", "2001:db8::2"
BROKEN = ((0x811C9DC5 ^ 0x100) * 0x01000193) & 0xFFFF_FFFF


def test_a_syn_says_what_its_stack_is() -> None:
    packet = read(tcp(A, B, SYN, sport=1_234, dport=443, hops=57, window=64_240, options=LINUX, ident=0))
    assert packet is not None and packet.is_syn
    assert (packet.source, packet.source_port, packet.destination_port) == (0xC0000201, 1_234, 443)
    assert (packet.hops, packet.length, packet.window, packet.mss, packet.has_zero_id) == (57, 60, 64_240, 1_460, True)
    assert packet.options == fingerprint(LINUX) != fingerprint(MAC)


def test_a_segment_without_syn_has_no_options_to_speak_of() -> None:
    packet = read(tcp(A, B, ACK, options=LINUX, payload=b"hello, this is more than sixteen bytes"))
    assert packet is not None
    assert (packet.mss, packet.options, packet.payload) == (None, None, b"hello, this is m")


@pytest.mark.parametrize("tags", [b"", b"\x81\x00\x00\x05", b"\x88\xa8\x00\x05\x81\x00\x00\x06"])
@pytest.mark.parametrize("ends", [(A, B), (A6, B6)])
def test_tags_and_families(ends: tuple[str, str], tags: bytes) -> None:
    plain = udp(*ends, sport=53, payload=b"\x00\x01answer")
    packet = read(ETHERNET + tags + plain[12:])
    assert packet == read(plain)
    assert packet is not None and packet.is_ipv6 == (":" in ends[0])
    assert (packet.source_port, packet.payload, packet.length) == (53, b"\x00\x01answer", len(plain) - 14)


def test_fragments() -> None:
    first = read(ip(A, B, 17, b"\x00\x35\x1b\x5c\x02\x00\x00\x00data", pieces=0x2000))
    later = read(ip(A, B, 17, b"datadata", pieces=0x0001))
    assert first is not None and later is not None
    assert (first.is_fragment, first.source_port) == (True, 53)
    assert (later.is_fragment, later.source_port, later.payload) == (True, None, b"")
    v6 = b"\x11\x00\x00\x09\x00\x00\x00\x07" + b"datadata"
    assert (found := read(ip(A6, B6, 44, v6))) is not None
    assert (found.protocol, found.is_fragment, found.source_port) == (17, True, None)


def test_three_tags_and_other_protocols_are_no_packet() -> None:
    assert read(ETHERNET + b"\x81\x00\x00\x01" * 3 + tcp(A, B, SYN)[12:]) is None
    assert read(ETHERNET + b"\x08\x06" + bytes(28)) is None


def test_options_are_named_as_the_program_names_them() -> None:
    """The cases of crates/causeway-bpf/src/guard/rule.rs."""
    assert fingerprint(b"") == 0x811C9DC5
    assert fingerprint(bytes([2, 4, 5, 180])) == fingerprint(bytes([2, 4, 1, 1]))
    assert fingerprint(bytes([2, 4, 5, 180])) != fingerprint(bytes([2, 4, 5, 180, 1]))
    for broken in ([8], [8, 0], [8, 1, 1], [8, 10, 0]):
        assert fingerprint(bytes(broken)) == BROKEN, broken


@pytest.mark.parametrize("line", [line for line in GOLDEN.read_text().splitlines() if line and line[0] != "#"])
def test_the_golden_packets_are_read_whole_and_cut_short(line: str) -> None:
    name, verdict, frame = (part.strip() for part in line.split("|"))
    whole = bytes.fromhex(frame)
    packet = read(whole)
    if verdict in ("passed", "illegal", "out_of_state"):
        assert packet is not None, name
    for length in range(len(whole)):
        cut = read(whole[:length])
        assert cut is None or packet is None or cut.source == packet.source


@given(st.binary(max_size=160))
def test_any_bytes_are_read_without_an_error(frame: bytes) -> None:
    read(frame)
    fingerprint(frame)


@given(st.binary(max_size=120), st.sampled_from([0x0800, 0x86DD, 0x8100]), st.integers(0, 255))
def test_any_packet_is_within_its_bounds(body: bytes, kind: int, protocol: int) -> None:
    packet = read(ETHERNET + kind.to_bytes(2) + body[:6] + bytes([protocol]) + body[7:])
    if packet is not None:
        assert 0 <= packet.length <= 65_535 and len(packet.payload) <= 16
        assert packet.mss is None or 0 <= packet.mss <= 65_535
        assert packet.options is None or 0 <= packet.options < 1 << 32
