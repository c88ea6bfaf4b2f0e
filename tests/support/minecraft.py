"""A Minecraft server as far as a server list sees it: handshake, status, ping. Run as a program of its own.

Packets are a varint length, a varint id and fields; https://minecraft.wiki/w/Java_Edition_protocol/Server_List_Ping.
"""

import json
import socketserver
import sys
from typing import BinaryIO

STATUS = {
    "version": {"name": "1.21.1", "protocol": 767},
    "players": {"max": 20, "online": 3, "sample": [{"name": "Ada", "id": "4566e69f-c907-48ee-8d71-d7ba5aa00d20"}]},
    "description": {"text": "a server behind causeway"},
    "favicon": "data:image/png;base64," + "iVBORw0KGgo" * 2_500,  # a string has at most 32,767 characters
}


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


class Player(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            self.rfile.read(read_varint(self.rfile))  # the handshake
            while True:
                body = self.rfile.read(read_varint(self.rfile))
                self.wfile.write(packet(self.answer(body)))
        except EOFError:
            pass

    def answer(self, body: bytes) -> bytes:
        if body == b"\x00":
            text = json.dumps(STATUS).encode()
            return b"\x00" + varint(len(text)) + text
        assert body[:1] == b"\x01", body  # ping: the same payload back
        return body


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


if __name__ == "__main__":
    with Server((sys.argv[1], int(sys.argv[2])), Player) as server:
        print("listening", flush=True)
        server.serve_forever()
