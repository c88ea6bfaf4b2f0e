"""What fits a rule and what does not: a condition for each field, as the kernel's program decides."""

import pytest
from guard_frames import ACK, LINUX, SYN, ip, tcp, udp

from causeway.guard.match import compiled
from causeway.guard.packet import fingerprint, read
from causeway.model.mitigation import Match, Payload

A, B = "192.0.2.1", "198.51.100.10"
SYN_OF_A = tcp(A, B, SYN, sport=1_234, dport=443, hops=57, window=1_024, options=LINUX, ident=0)
DATAGRAM = udp(A, B, sport=53, payload=b"\x12\x34getstatus")
FRAGMENT = ip(A, B, 17, b"datadata", pieces=1)
OVER_V6 = udp("2001:db8::1", "2001:db8::2")
PING = ip(A, B, 1, b"\x08\0\0\0\0\0\0\0")

CASES = [  # match, what fits, what does not
    (Match(), [SYN_OF_A, DATAGRAM, FRAGMENT, OVER_V6, PING], []),
    (Match(protocol=6), [SYN_OF_A], [DATAGRAM, PING]),
    (Match(is_ipv6=True), [OVER_V6], [DATAGRAM]),
    (Match(source="192.0.2.0/24"), [SYN_OF_A], [OVER_V6, udp("192.0.3.1", B)]),
    (Match(destination="2001:db8::/32"), [OVER_V6], [DATAGRAM]),
    (Match(source_ports=(53, 53)), [DATAGRAM], [SYN_OF_A, FRAGMENT]),
    (Match(source_ports=(0, 65_535)), [DATAGRAM, FRAGMENT, PING], []),
    (Match(destination_ports=(400, 500)), [SYN_OF_A], [DATAGRAM]),
    (Match(length=(60, 60)), [SYN_OF_A], [DATAGRAM]),
    (Match(hops=(33, 57)), [SYN_OF_A], [DATAGRAM]),
    (Match(flags=(0x12, 0x02)), [SYN_OF_A], [tcp(A, B, ACK), tcp(A, B, SYN | ACK), DATAGRAM]),
    (Match(window=(1_024, 1_024)), [SYN_OF_A], [tcp(A, B, SYN), DATAGRAM]),
    (Match(mss=(1_460, 1_460)), [SYN_OF_A], [tcp(A, B, SYN), tcp(A, B, ACK, options=LINUX)]),
    (Match(mss=(0, 0)), [tcp(A, B, SYN)], [SYN_OF_A, DATAGRAM]),
    (Match(fingerprint=fingerprint(LINUX)), [SYN_OF_A], [tcp(A, B, SYN), tcp(A, B, ACK, options=LINUX)]),
    (Match(has_zero_id=True), [SYN_OF_A], [DATAGRAM, OVER_V6]),
    (Match(is_fragment=True), [FRAGMENT], [DATAGRAM]),
    (Match(payload=Payload(2, "676574", "ffffff")), [DATAGRAM], [SYN_OF_A, udp(A, B, payload=b"getstatus")]),
    (Match(payload=Payload(0, "1200", "ff00")), [DATAGRAM], [udp(A, B, payload=b"\x12")]),
    (Match(protocol=17, source_ports=(53, 53), hops=(1, 32)), [], [DATAGRAM]),
]  # fmt: skip


@pytest.mark.parametrize(("match", "fitting", "others"), CASES)
def test_what_fits(match: Match, fitting: list[bytes], others: list[bytes]) -> None:
    fits = compiled(match)
    for frames, expected in ((fitting, True), (others, False)):
        for frame in frames:
            packet = read(frame)
            assert packet is not None and fits(packet) is expected, packet
