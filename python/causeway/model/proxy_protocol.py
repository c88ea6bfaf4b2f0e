"""Who the client is, said in bytes: PROXY protocol v1 and v2 with TLVs, and Simple Proxy Protocol.

Pure twin of the engine's codecs, held to them by the same `vectors/`. For origins, tests and the lab:
traffic through an edge never comes here. Headers are read as they arrive, and a length is judged before
the bytes that it promises are waited for.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NoReturn, Self

MAX_HEADER: Final = 8192
MAX_LINE: Final = 107
SIMPLE_LEN: Final = 38
CRC32C: Final = 0x03

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = 16
_TLV_HEAD: Final = 3
_ADDRESSES_LEN: Final = {0: 0, 1: 12, 2: 36, 3: 216}  # UNSPEC, INET, INET6, UNIX
_SIMPLE_MAGIC: Final = b"\x56\xec"
_MISSING: Final = "the connection does not start with a PROXY protocol header"


class HeaderError(ValueError):
    """The bytes are not, and can't become, a header; the side at fault is whoever sent them."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class NeedMore(Enum):
    """The one answer that is not an answer yet."""

    NEED_MORE = "need more"


NEED_MORE: Final = NeedMore.NEED_MORE


class Transport(Enum):
    STREAM = 1
    DATAGRAM = 2


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An IPv4 address that came inside IPv6 is an IPv4 address."""

    address: IPv4Address | IPv6Address
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"port {self.port} is not between 0 and 65535")
        if isinstance(self.address, IPv6Address) and (mapped := self.address.ipv4_mapped):
            object.__setattr__(self, "address", mapped)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `192.0.2.1:80` or `[2001:db8::1]:80`."""
        address, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError(f"{text!r} has no port")
        return cls(ip_address(address.removeprefix("[").removesuffix("]")), int(port))

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" if self.address.version == 4 else f"[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoints:
    source: SocketAddress
    destination: SocketAddress

    @classmethod
    def parse(cls, source: str, destination: str) -> Self:
        return cls(SocketAddress.parse(source), SocketAddress.parse(destination))

    @property
    def pair(self) -> tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]:
        """IPv4 when both are; else both as IPv6, the IPv4 one mapped."""
        source, destination = self.source.address, self.destination.address
        if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
            return source, destination
        return _mapped(source), _mapped(destination)


@dataclass(frozen=True, slots=True)
class Tlv:
    kind: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """No endpoints for LOCAL, UNKNOWN, UNSPEC and AF_UNIX: the socket's own addresses hold."""

    version: int
    consumed: int
    endpoints: Endpoints | None = None
    transport: Transport | None = None
    tlvs: tuple[Tlv, ...] = ()


def encode_v1(endpoints: Endpoints) -> bytes:
    """Write the line, with hexadecimal groups only: the specification has no dotted IPv6."""
    source, destination = endpoints.pair
    family = "TCP4" if source.version == 4 else "TCP6"
    ports = f"{endpoints.source.port} {endpoints.destination.port}"
    return f"PROXY {family} {_groups(source)} {_groups(destination)} {ports}\r\n".encode("ascii")


def encode_v2(endpoints: Endpoints, transport: Transport, tlvs: Sequence[Tlv] = ()) -> bytes:
    """Write a PROXY header; a checksum is the caller's to bring."""
    source, destination = endpoints.pair
    ports = struct.pack(">HH", endpoints.source.port, endpoints.destination.port)
    attached = b"".join(struct.pack(">BH", tlv.kind, len(tlv.value)) + tlv.value for tlv in tlvs)
    block = source.packed + destination.packed + ports + attached
    family = 0x10 if source.version == 4 else 0x20
    return _SIGNATURE + struct.pack(">BBH", 0x21, family | transport.value, len(block)) + block


def encode_simple(endpoints: Endpoints) -> bytes:
    """Write the 38 bytes that go before a datagram: source is the client, destination the edge."""
    source, destination = endpoints.source, endpoints.destination
    addresses = _mapped(source.address).packed + _mapped(destination.address).packed
    return _SIMPLE_MAGIC + addresses + struct.pack(">HH", source.port, destination.port)


def decode_simple(datagram: bytes) -> tuple[Endpoints, bytes]:
    """Split a datagram into what its header says and its payload."""
    if len(datagram) < SIMPLE_LEN:
        raise HeaderError("simple_proxy_too_short", f"{len(datagram)} bytes, the header alone has {SIMPLE_LEN}")
    if datagram[:2] != _SIMPLE_MAGIC:
        raise HeaderError("simple_proxy_magic", f"starts with {datagram[:2].hex()}, not with 56ec")
    ports = struct.unpack(">HH", datagram[34:SIMPLE_LEN])
    source = SocketAddress(IPv6Address(datagram[2:18]), ports[0])
    destination = SocketAddress(IPv6Address(datagram[18:34]), ports[1])
    return Endpoints(source, destination), datagram[SIMPLE_LEN:]


def parse_header(data: bytes) -> Header | NeedMore:
    """Read v1 or v2 from what has arrived; an error is final and comes at the first impossible byte."""
    match data[:1]:
        case b"":
            return NEED_MORE
        case b"P":
            return _Line(data).header()
        case b"\r":
            return _parse_v2(data)
        case _:
            raise HeaderError("proxy_header_missing", _MISSING)


def _refuse(code: str, message: str) -> NoReturn:
    raise HeaderError(code, message)


def _mapped(address: IPv4Address | IPv6Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)


def _groups(address: IPv4Address | IPv6Address) -> str:
    # Python 3.13 began to write mapped addresses dotted.
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        high, low = struct.unpack(">HH", address.packed[12:])
        return f"::ffff:{high:x}:{low:x}"
    return str(address)


def _parse_v2(data: bytes) -> Header | NeedMore:
    if not _SIGNATURE.startswith(data[:12]):
        _refuse("proxy_header_missing", "the signature of PROXY v2 breaks off")
    if len(data) < 13:
        return NEED_MORE
    version, command = data[12] >> 4, data[12] & 0xF
    if version != 2:
        _refuse("proxy_v2_version", f"version {version}, only 2 exists")
    if command > 1:
        _refuse("proxy_v2_command", f"command {command}, only LOCAL (0) and PROXY (1) exist")
    if len(data) < 14:
        return NEED_MORE
    family, transport = (data[13] >> 4, data[13] & 0xF) if command == 1 else (0, 0)
    if family not in _ADDRESSES_LEN or transport > 2:
        _refuse("proxy_v2_family", f"address family and transport {data[13]:#04x} don't exist")
    if len(data) < 15:
        return NEED_MORE
    length = int.from_bytes(data[14:16].ljust(2, b"\0"))
    if _FIXED + length > MAX_HEADER:
        _refuse("proxy_v2_too_long", f"longer than {MAX_HEADER} bytes")
    if len(data) < _FIXED:
        return NEED_MORE
    if length < _ADDRESSES_LEN[family]:
        _refuse("proxy_v2_too_short", f"{length} bytes can't hold the addresses")

    end, list_at = _FIXED + length, _FIXED + _ADDRESSES_LEN[family]
    header = data[:end]  # what is behind is the client's payload
    tlvs = tuple(_tlvs(header[list_at:], end - list_at)) if family else ()
    if len(header) < end:
        return NEED_MORE
    at = list_at
    for tlv in tlvs:
        at += _TLV_HEAD + len(tlv.value)
        if tlv.kind == CRC32C and _crc32c(header[: at - 4] + bytes(4) + header[at:]) != int.from_bytes(tlv.value):
            _refuse("proxy_v2_checksum", "the header does not match its CRC32c checksum")
    if not transport or family not in (1, 2):
        return Header(2, end, tlvs=tlvs)
    return Header(2, end, _endpoints(header[_FIXED:list_at]), Transport(transport), tlvs)


def _endpoints(block: bytes) -> Endpoints:
    half = (len(block) - 4) // 2
    ports = struct.unpack(">HH", block[-4:])
    source, destination = ip_address(block[:half]), ip_address(block[half : 2 * half])
    return Endpoints(SocketAddress(source, ports[0]), SocketAddress(destination, ports[1]))


def _tlvs(seen: bytes, total: int) -> Iterator[Tlv]:
    """Yield the whole ones of a list of `total` bytes; refuse one that can't end where it must."""
    at, has_checksum, is_sound = 0, False, total == 0 or total >= _TLV_HEAD
    while is_sound and at < len(seen):
        room = total - at - _TLV_HEAD
        kind, head = seen[at], seen[at + 1 : at + _TLV_HEAD]
        length = int.from_bytes(head.ljust(2, b"\0"))
        fits = length == room or length + _TLV_HEAD <= room
        if kind == CRC32C:
            is_sound = not has_checksum and (room == 4 or room >= 4 + _TLV_HEAD)
            is_sound = is_sound and (not head or length == 4 or (len(head) == 1 and length == 0))
            has_checksum = True
        else:
            is_sound = fits if len(head) == 2 else length <= room
        if len(head) < 2:
            break
        at += _TLV_HEAD + length
        if is_sound and at <= len(seen):
            yield Tlv(kind, seen[at - length : at])
    if not is_sound:
        _refuse("proxy_v2_tlv", "a TLV does not end where the header or another TLV does")


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class _OutOfBytes(Exception):
    pass


class _Line:
    """PROXY v1, byte by byte against its grammar; `at` counts the bytes taken."""

    def __init__(self, data: bytes) -> None:
        self.data = data[:MAX_LINE]
        self.at = 0

    def header(self) -> Header | NeedMore:
        try:
            endpoints = self.endpoints()
        except _OutOfBytes:
            return NEED_MORE
        return Header(1, self.at, endpoints, Transport.STREAM if endpoints else None)

    def endpoints(self) -> Endpoints | None:
        try:
            self.text(b"PROXY ")
        except HeaderError:
            _refuse("proxy_header_missing", _MISSING)
        if self.next(b"TU") == b"U":
            self.text(b"NKNOWN")
            if self.next(b" \r") == b" ":
                while self.take() != b"\r":
                    pass
            self.text(b"\n")
            return None
        self.text(b"CP")
        read = self.ipv4 if self.next(b"46") == b"4" else self.ipv6
        self.text(b" ")
        source, destination = read(), read()
        source_port, destination_port = self.decimal(0xFFFF, b" "), self.decimal(0xFFFF, b"\r")
        self.text(b"\n")
        return Endpoints(SocketAddress(source, source_port), SocketAddress(destination, destination_port))

    def take(self) -> bytes:
        byte = self.data[self.at : self.at + 1]
        if not byte:
            raise _OutOfBytes
        # The last place for CR, unless it has just been.
        if self.at == MAX_LINE - 2 and b"\r" not in self.data[self.at - 1 : self.at + 1]:
            _refuse("proxy_v1_too_long", f"no CRLF within {MAX_LINE} bytes")
        self.at += 1
        return byte

    def next(self, allowed: bytes) -> bytes:
        byte = self.take()
        return byte if byte in allowed else self.malformed()

    def malformed(self) -> NoReturn:
        _refuse("proxy_v1_malformed", f"wrong byte at offset {self.at - 1}")

    def text(self, expected: bytes) -> None:
        for byte in expected:
            self.next(bytes([byte]))

    def decimal(self, limit: int, end: bytes) -> int:
        """Take a number without leading zeros and the byte that ends it."""
        value = int(self.next(b"0123456789"))
        while (byte := self.next(b"0123456789" + end)) != end:
            longer = value * 10 + int(byte)
            value = longer if value and longer <= limit else self.malformed()
        return value

    def ipv4(self) -> IPv4Address:
        return IPv4Address(bytes(self.decimal(255, end) for end in (b".", b".", b".", b" ")))

    def ipv6(self) -> IPv6Address:
        """Take only what some address can start with; `ipaddress` has the last word on the whole."""
        start, groups, digits, colons, has_gap = self.at, 0, 0, 0, False
        while (byte := self.next(b"0123456789abcdefABCDEF:. ")) != b" ":
            room = 7 if has_gap else 8  # a gap stands for one group at least
            if byte == b":":
                if colons == 0 and groups < room:
                    digits, colons = 0, 1
                elif colons == 1 and not has_gap:
                    has_gap, colons = True, 2
                else:
                    self.malformed()
            elif byte == b".":
                # The group just read was the first octet of an IPv4 tail, which fills two groups.
                first = self.data[self.at - 1 - digits : self.at - 1]
                is_octet = first.isdigit() and str(int(first)) == first.decode() and int(first) <= 255
                if not is_octet or not (groups <= 6 if has_gap else groups == 7):
                    self.malformed()
                for end in (b".", b".", b" "):
                    self.decimal(255, end)
                break
            else:
                is_lone_colon = groups == 0 and colons == 1
                if digits == 4 or (digits == 0 and (groups == room or is_lone_colon)):
                    self.malformed()
                groups, digits, colons = groups + (digits == 0), digits + 1, 0
        try:
            return IPv6Address(self.data[start : self.at - 1].decode("ascii"))
        except ValueError:
            self.malformed()
