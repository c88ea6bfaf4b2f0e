"""Frames for the guard's tests, from Ethernet on, as the kernel samples them."""

import socket
import struct
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
LINUX = bytes.fromhex("020405b40402080a00000000000000000103030a")
WINDOWS = bytes.fromhex("020405b40103030801010402")
MAC = bytes.fromhex("020405b4010303060101080a000000000000000004020000")


@dataclass(frozen=True, slots=True)
class Stack:
    """How an operating system's SYNs look."""

    hops: int
    window: int
    options: bytes
    zero_id: bool = False


STACKS = (Stack(64, 64_240, LINUX), Stack(128, 64_240, WINDOWS), Stack(64, 65_535, MAC, zero_id=True))


def tcp(
    source: str, to: str, flags: int, *, sport: int = 40_000, dport: int = 7_001, hops: int = 60, window: int = 64_240,
    options: bytes = b"", payload: bytes = b"", ident: int = 7,
) -> bytes:  # fmt: skip
    words = 5 + (len(options) + 3) // 4
    header = struct.pack("!HHIIBBHHH", sport, dport, 1, 0, words << 4, flags, window, 0, 0)
    return ip(source, to, 6, header + options.ljust(words * 4 - 20, b"\0") + payload, hops, ident)


def udp(
    source: str, to: str, *, sport: int = 40_000, dport: int = 7_004, hops: int = 60, payload: bytes = b"",
    ident: int = 7,
) -> bytes:  # fmt: skip
    return ip(source, to, 17, struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload, hops, ident)


def ip(source: str, to: str, protocol: int, data: bytes, hops: int = 60, ident: int = 7, pieces: int = 0x4000) -> bytes:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, to)
    if ":" in to:
        return ETHERNET + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(data), protocol, hops) + ends + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), ident, pieces, hops, protocol, 0)
    return ETHERNET + b"\x08\x00" + head + ends + data


ETHERNET = bytes.fromhex("020000000101020000000202")
