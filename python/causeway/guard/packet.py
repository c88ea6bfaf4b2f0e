"""A sampled frame as values: what a rule can ask of a packet, and no more.

The twin of `causeway_bpf::guard::Seen` for the first 128 bytes of a frame. Reads any bytes whatever without an error:
what contradicts itself, or goes on behind the end of the sample, is read as far as it goes.
"""

from __future__ import annotations

import msgspec

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
PAYLOAD_BYTES = 16  # that a rule can look at

_VLAN = (0x8100, 0x88A8)
_EXTENSIONS = frozenset((0, 43, 44, 51, 60))
_MOST_EXTENSIONS = 8


class Packet(msgspec.Struct, frozen=True, gc=False):
    """`flags` and `window` are None where there is no TCP, `mss` and `options` where there is no SYN."""

    is_ipv6: bool
    source: int  # the address as a number
    destination: int
    protocol: int
    hops: int
    length: int  # from the IP header on
    has_zero_id: bool = False
    is_fragment: bool = False
    source_port: int | None = None
    destination_port: int | None = None
    flags: int | None = None
    window: int | None = None
    mss: int | None = None  # 0: the SYN says none
    options: int | None = None  # a hash of the kinds of options in their order
    payload: bytes = b""  # the first bytes of it

    @property
    def is_syn(self) -> bool:
        """It asks for a connection."""
        return self.flags is not None and self.flags & (SYN | ACK) == SYN

    def source_prefix(self, length: int) -> int:
        """The first `length` bits of the source, as a number."""
        return self.source >> ((128 if self.is_ipv6 else 32) - length)


def read(frame: bytes) -> Packet | None:
    """Read a frame from its Ethernet header on; None if that is no IP packet."""
    kind, at = int.from_bytes(frame[12:14]), 14
    for _ in range(2):
        if kind in _VLAN:
            kind, at = int.from_bytes(frame[at + 2 : at + 4]), at + 4
    ip = frame[at:]
    if kind == 0x0800 and len(ip) >= 20:
        return _read_v4(ip)
    if kind == 0x86DD and len(ip) >= 40:
        return _read_v6(ip)
    return None


def fingerprint(options: bytes) -> int:
    """Of the kinds of a SYN's options, in order, up to the end of the list: as `causeway_bpf::guard::fingerprint`."""
    value, at = 0x811C9DC5, 0
    while at < len(options):
        kind = options[at]
        if kind > 1:
            length = options[at + 1] if at + 1 < len(options) else 0
            if length < 2 or at + length > len(options):
                return ((value ^ 0x100) * 0x01000193) & 0xFFFF_FFFF
        else:
            length = 1
        value = ((value ^ kind) * 0x01000193) & 0xFFFF_FFFF
        if kind == 0:
            break
        at += length
    return value


def _mss(options: bytes) -> int:
    """The last one that a well-formed list has; 0 if there is none."""
    found, at = 0, 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            break
        if options[at] == 2 and length == 4:
            found = int.from_bytes(options[at + 2 : at + 4])
        at += length
    return found


def _read_v4(ip: bytes) -> Packet:
    pieces = int.from_bytes(ip[6:8])
    length = int.from_bytes(ip[2:4]) or min(len(ip), 65_535)
    header = max(20, (ip[0] & 15) * 4)
    is_later = pieces & 0x1FFF != 0
    return _with_transport(
        Packet(
            is_ipv6=False,
            source=int.from_bytes(ip[12:16]),
            destination=int.from_bytes(ip[16:20]),
            protocol=ip[9],
            hops=ip[8],
            length=length,
            has_zero_id=ip[4:6] == b"\0\0",
            is_fragment=pieces & 0x3FFF != 0,
        ),
        b"" if is_later else ip[header:length],
    )


def _read_v6(ip: bytes) -> Packet:
    length = min(int.from_bytes(ip[4:6]) + 40, 65_535)
    protocol, at, is_fragment = ip[6], 40, False
    rest = ip[:length]
    for _ in range(_MOST_EXTENSIONS):
        header = ip[at : at + 8]
        if protocol not in _EXTENSIONS or len(header) < 8:
            break
        size = 8 if protocol == 44 else (header[1] + 2) * 4 if protocol == 51 else (header[1] + 1) * 8
        if protocol == 44:
            field = int.from_bytes(header[2:4])
            is_fragment = is_fragment or field & 0xFFF9 != 0
            if field & 0xFFF8:
                rest = b""  # a later fragment has no header of its own
        protocol, at = header[0], at + size
        if not rest:
            break
    return _with_transport(
        Packet(
            is_ipv6=True,
            source=int.from_bytes(ip[8:24]),
            destination=int.from_bytes(ip[24:40]),
            protocol=protocol,
            hops=ip[7],
            length=length,
            is_fragment=is_fragment,
        ),
        rest[at:],
    )


def _with_transport(packet: Packet, data: bytes) -> Packet:
    if packet.protocol == TCP and len(data) >= 20:
        header = max(20, (data[12] >> 4) * 4)
        options, flags = data[20:header], data[13]
        return msgspec.structs.replace(
            packet,
            source_port=int.from_bytes(data[0:2]),
            destination_port=int.from_bytes(data[2:4]),
            flags=flags,
            window=int.from_bytes(data[14:16]),
            mss=_mss(options) if flags & SYN else None,
            options=fingerprint(options) if flags & SYN else None,
            payload=data[header : header + PAYLOAD_BYTES],
        )
    if packet.protocol == UDP and len(data) >= 8:
        return msgspec.structs.replace(
            packet,
            source_port=int.from_bytes(data[0:2]),
            destination_port=int.from_bytes(data[2:4]),
            payload=data[8 : 8 + PAYLOAD_BYTES],
        )
    return packet
