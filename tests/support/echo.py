"""Both ends of an echo: the origin as a program of its own, and clients that ask once."""

import socket
import struct
import sys
from pathlib import Path

from support.namespaces import Namespace
from support.patience import eventually
from support.ports import free_port
from support.program import Program, Programs

_SERVER = Path(__file__).with_name("echo_server.py")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def start_echo(
    programs: Programs,
    address: str = "127.0.0.1",
    port: int | None = None,
    greeting: str = "",
    inside: Namespace | None = None,
) -> int:
    """Start an echo for TCP and UDP; answers its port."""
    port = port or free_port()
    started: Program = programs.start(sys.executable, _SERVER, address, str(port), greeting, inside=inside)
    eventually(lambda: "listening" in started.output)
    return port


def ask(port: int, address: str = "127.0.0.1", question: bytes = b"hello") -> bytes:
    """Everything that comes back over TCP to one question."""
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            return answer.read()


def ask_udp(port: int, address: str = "127.0.0.1", question: bytes = b"hello") -> bytes:
    """The datagram that comes back to one; asked again if it is lost."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        client.settimeout(0.5)

        def once() -> bytes:
            client.send(question)
            return client.recv(65_535)

        return eventually(once)


def echoes(connection: socket.socket, word: bytes = b"still here") -> bool:
    """Whether an open connection still carries bytes both ways."""
    connection.sendall(word)
    received = b""
    while len(received) < len(word):
        part = connection.recv(len(word) - len(received))
        if not part:
            return False
        received += part
    return received == word


def reset(connection: socket.socket) -> None:
    """Close with RST, which leaves no TIME_WAIT anywhere."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    connection.close()
