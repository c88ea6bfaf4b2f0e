"""A Minecraft server as far as a server list and a player that joins see it. Run as a program of its own.

Packets are a varint length, a varint id and fields; https://minecraft.wiki/w/Java_Edition_protocol/Server_List_Ping.
It says what it is asked for, a line each: `status` or `join`. Who has joined hears its own bytes again.
"""

import json
import socketserver
import sys
from typing import BinaryIO, NamedTuple

STATUS = {
    "version": {"name": "1.21.1", "protocol": 767},
    "players": {"max": 20, "online": 3, "sample": [{"name": "Ada", "id": "4566e69f-c907-48ee-8d71-d7ba5aa00d20"}]},
    "description": {"text": "a server behind causeway"},
    "favicon": "data:image/png;base64," + "iVBORw0KGgo" * 2_500,  # a string has at most 32,767 characters
}
NEXT = {1: "status", 2: "login", 3: "transfer"}
MAX_HANDSHAKE = 4096
LOGIN_SUCCESS = b"\x02" + bytes(16) + b"\x03Ada\x00"


class Greeting(NamedTuple):
    consumed: int
    protocol: int
    next: str


class Refused(Exception):
    """What a client says first is no handshake; the argument is the code of the engine."""


def read_greeting(data: bytes) -> Greeting | str | None:
    """The first packet of a client, `legacy`, or None: more is needed. The twin of `causeway_wire::minecraft`."""
    if data[:1] == b"\xfe":
        return "legacy"
    try:
        return _greeting(data)
    except IndexError:
        return None


def _greeting(data: bytes) -> Greeting:
    length, at = _number(data, 0, None)
    if not 1 <= length <= MAX_HANDSHAKE:
        raise Refused("minecraft_length")
    end = at + length
    packet, at = _number(data, at, end)
    if packet != 0:
        raise Refused("minecraft_packet")
    protocol, at = _number(data, at, end)
    address, at = _number(data, at, end)
    if address < 0 or address + 3 > end - at:
        raise Refused("minecraft_handshake")
    state, at = _number(data, at + address + 2, end)
    if state not in NEXT:
        raise Refused("minecraft_next_state")
    if at != end:
        raise Refused("minecraft_handshake")
    return Greeting(at, protocol, NEXT[state])


def _number(data: bytes, at: int, end: int | None) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if end is not None and at >= end:
            raise Refused("minecraft_handshake")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            value &= 0xFFFF_FFFF
            return value - (1 << 32) if value >> 31 else value, at
    raise Refused("minecraft_varint")


def read_varint(source: BinaryIO) -> int:
    value = 0
    for shift in range(0, 35, 7):
        byte = source.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a varint of more than five bytes")


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def packet(body: bytes) -> bytes:
    return varint(len(body)) + body


def handshake(state: int, address: str = "mc.example.net") -> bytes:
    return packet(
        b"\x00" + varint(767) + varint(len(address)) + address.encode() + (25565).to_bytes(2, "big") + varint(state)
    )


def login(name: str) -> bytes:
    return packet(b"\x00" + varint(len(name)) + name.encode() + bytes(16))


class Player(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            greeting = self.rfile.read(read_varint(self.rfile))
            is_joining = greeting[-1] != 1
            if is_joining:
                self.rfile.read(read_varint(self.rfile))  # who it is
                print("join", flush=True)
                self.wfile.write(packet(LOGIN_SUCCESS))
            while True:
                body = self.rfile.read1(4096) if is_joining else self.rfile.read(read_varint(self.rfile))
                if is_joining and not body:
                    return
                self.wfile.write(body if is_joining else packet(self.answer(body)))
        except (EOFError, ConnectionError):
            pass

    def answer(self, body: bytes) -> bytes:
        if body == b"\x00":
            print("status", flush=True)
            text = json.dumps(STATUS).encode()
            return b"\x00" + varint(len(text)) + text
        assert body[:1] == b"\x01", body  # ping: the same payload back
        return body


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024


if __name__ == "__main__":
    with Server((sys.argv[1], int(sys.argv[2])), Player) as server:
        print("listening", flush=True)
        server.serve_forever()
