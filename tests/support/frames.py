"""Packets as bytes, made by hand, and put on the wire of a namespace: what no socket would send."""

import ctypes
import itertools
import socket
import struct
from collections.abc import Iterable

from support.namespaces import Namespace

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
FORGED_WINDOW = 64_000  # of every segment made here
_ETHERNET = {4: b"\x08\x00", 6: b"\x86\xdd"}
_libc = ctypes.CDLL(None, use_errno=True)


def stranger(number: int) -> tuple[str, int]:
    """Address and port of one of many, of 198.19.0.0/16."""
    return f"198.19.{number >> 8 & 255}.{1 + number % 250}", 1024 + number % 60_000


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def checksum(data: bytes) -> int:
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total: int = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def over_pseudo(source: str, to: str, protocol: int, data: bytes) -> int:
    pseudo = packed(source) + packed(to) + struct.pack("!II", len(data), protocol)
    return checksum(pseudo + data)


def tcp(
    source: tuple[str, int], to: tuple[str, int], flags: int, seq: int = 0, ack: int = 0, payload: bytes = b"",
    header_words: int = 5,
) -> bytes:  # fmt: skip
    ports = struct.pack("!HH", source[1], to[1])
    numbers = struct.pack("!II", seq & 0xFFFF_FFFF, ack & 0xFFFF_FFFF)
    segment = ports + numbers + struct.pack("!BBHHH", header_words << 4, flags, FORGED_WINDOW, 0, 0) + payload
    filled = segment[:16] + struct.pack("!H", over_pseudo(source[0], to[0], 6, segment)) + segment[18:]
    return network(source[0], to[0], 6, filled)


def udp(source: tuple[str, int], to: tuple[str, int], payload: bytes = b"", length: int | None = None) -> bytes:
    told = len(payload) + 8 if length is None else length
    datagram = struct.pack("!HHHH", source[1], to[1], told, 0) + payload
    filled = datagram[:6] + struct.pack("!H", over_pseudo(source[0], to[0], 17, datagram) or 0xFFFF) + datagram[8:]
    return network(source[0], to[0], 17, filled)


def icmp(source: str, to: str, kind: int, code: int, about: bytes, value: int = 0) -> bytes:
    """An error about a packet."""
    message = struct.pack("!BBHI", kind, code, 0, value) + about
    protocol, total = (58, over_pseudo(source, to, 58, message)) if ":" in to else (1, checksum(message))
    return network(source, to, protocol, message[:2] + struct.pack("!H", total) + message[4:])


def network(source: str, to: str, protocol: int, data: bytes, hops: int = 64) -> bytes:
    if ":" in to:
        return struct.pack("!IHBB", 6 << 28, len(data), protocol, hops) + packed(source) + packed(to) + data
    header = (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 7, 0x4000, hops, protocol, 0) + packed(source) + packed(to)
    )
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + data


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p), ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int), ("sent", ctypes.c_uint32),
    )  # fmt: skip


class Wire:
    """A place on a wire, from where anything can be sent to whoever is at its other end."""

    def __init__(self, namespace: Namespace, device: str, to_mac: str) -> None:
        with namespace:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._socket.bind((device, 0))
        own: bytes = self._socket.getsockname()[4]
        self._macs = bytes.fromhex(to_mac.replace(":", "")) + own

    def send(self, packets: Iterable[bytes], vlan: int | None = None) -> int:
        tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
        count = 0
        for packet in packets:
            version = packet[0] >> 4 if packet else 4
            self._socket.send(self._macs + tag + _ETHERNET.get(version, _ETHERNET[4]) + packet)
            count += 1
        return count

    def flood(self, packet: bytes, count: int, batch: int = 512) -> None:
        """IPv4 and TCP: the same from ever other clients, all of 198.18.128.0/17 with each port; sums are wrong."""
        frame = self._macs + _ETHERNET[4] + packet
        buffers = [ctypes.create_string_buffer(frame, len(frame)) for _ in range(batch)]
        vectors = (_Vector * batch)(*[_Vector(ctypes.addressof(buffer), len(frame)) for buffer in buffers])
        size = ctypes.sizeof(_Vector)
        messages = (_Message * batch)()
        for index, message in enumerate(messages):
            message.vectors, message.vector_count = ctypes.addressof(vectors) + index * size, 1
        clients = itertools.product(range(1024, 65_536), range(1, 32_767))
        for _ in range(0, count, batch):
            for buffer, (port, host) in zip(buffers, clients, strict=False):
                struct.pack_into("!I", buffer, 26, 0xC612_8000 + host)
                struct.pack_into("!H", buffer, 34, port)
            sent = 0
            while sent < batch:
                done = _libc.sendmmsg(
                    self._socket.fileno(), ctypes.byref(messages, sent * ctypes.sizeof(_Message)), batch - sent, 0
                )
                assert done > 0, ctypes.get_errno()
                sent += done

    def close(self) -> None:
        self._socket.close()


_REPAIR, _QUEUE, _QUEUE_SEQ, _WITHOUT_PROBE = 19, 20, 21, -1


def seqs(client: socket.socket) -> tuple[int, int]:
    """What a connected socket will send next, and what it expects: numbers that a stranger would have to guess."""
    client.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
    found = []
    for which in (2, 1):  # what it sends, what it receives
        client.setsockopt(socket.IPPROTO_TCP, _QUEUE, which)
        found.append(client.getsockopt(socket.IPPROTO_TCP, _QUEUE_SEQ) & 0xFFFF_FFFF)
    client.setsockopt(socket.IPPROTO_TCP, _REPAIR, _WITHOUT_PROBE)
    return found[0], found[1]


def begin_at(new: socket.socket, number: int) -> None:
    """Choose the sequence number of its SYN."""
    new.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
    new.setsockopt(socket.IPPROTO_TCP, _QUEUE, 2)
    new.setsockopt(socket.IPPROTO_TCP, _QUEUE_SEQ, number - (1 << 32) if number >= 1 << 31 else number)
    new.setsockopt(socket.IPPROTO_TCP, _REPAIR, _WITHOUT_PROBE)
