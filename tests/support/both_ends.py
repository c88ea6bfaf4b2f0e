"""One application in the three networks, with the test at both ends of it: client and origin are sockets of its own.

What the edge tells of its flows is asked for here, and which carrier had them: the number of a record says it.
"""

import itertools
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from support.carried import CLIENT, EDGE, ORIGIN, Middle
from support.patience import eventually

PATIENCE_S = 10.0
FIRST_OF_THE_KERNEL = 256 << 48  # carry/tell.rs: workers number their flows below it
_ports = itertools.count(9000, 20)
_seeds = itertools.count(1)


def noise(count: int) -> bytes:
    """Bytes that differ everywhere, and from those of every other call."""
    return random.Random(next(_seeds)).randbytes(count)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def receive(connection: socket.socket, count: int) -> bytes:
    """So many bytes; fewer if the stream ends before."""
    parts, left = [], count
    while left and (part := connection.recv(min(left, 1 << 18))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def says(sender: socket.socket, receiver: socket.socket, words: bytes) -> None:
    """What is sent on one side arrives on the other, byte for byte."""
    sending = threading.Thread(target=sender.sendall, args=(words,))
    sending.start()
    heard = receive(receiver, len(words))
    sending.join(PATIENCE_S)
    assert heard == words, f"{len(heard)} of {len(words)} bytes came, or others than were sent"


def over(client: socket.socket, server: socket.socket, words: bytes, header: bytes = b"", back: bytes = b"") -> None:
    """A datagram goes to the origin, which gets `header` in front of it, and comes back from there."""
    client.send(words)
    heard, source = server.recvfrom(65_536)
    assert heard == header + words, f"{len(heard)} bytes for {len(header)} and {len(words)}"
    server.sendto(back + words, source)
    heard = client.recv(65_536)
    assert heard == words, f"{len(heard)} of {len(words)} bytes came back"


def is_at_its_end(connection: socket.socket) -> bool:
    return connection.recv(1) == b""


class BothEnds:
    """An application for one origin; `fields` are the API's."""

    def __init__(
        self, middle: Middle, carrier: str, family: int, transport: str = "tcp", ports: int = 1, **fields: Any
    ) -> None:
        self.middle, self.carrier, self.family, self.transport = middle, carrier, family, transport
        self.client_at: str = getattr(middle, "client_at", CLIENT)[family]
        self.origin_at: str = getattr(middle, "origin_at", ORIGIN)[family]
        self.port, self.ports = next(_ports), ports
        self.origin_port = self.port + 20_000
        self.kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
        self.fields = {**fields, "x_causeway": {"carrier": carrier, **fields.get("x_causeway", {})}}
        self.id = middle.edge.create_application(self.protocol, self.origin(), **self.fields)
        self.protocol_number = 0  # the usual one of this kind of socket
        self._opened: list[socket.socket] = []

    @property
    def protocol(self) -> str:
        return f"{self.transport}/{span(self.port, self.ports)}"

    def origin(self, shift: int = 0) -> str:
        host = bracketed(self.origin_at)
        return f"{self.transport}://{host}:{span(self.origin_port + shift, self.ports)}"

    def update(self, origin: str) -> None:
        name = {"type": "CNAME", "name": f"app-{self.protocol.replace('/', '-')}.example.net"}
        body = {"protocol": self.protocol, "dns": name, "origin_direct": [origin], **self.fields}
        self.middle.edge.result("PUT", f"{self.middle.edge.applications}/{self.id}", body)

    def make_socket(self) -> socket.socket:
        """In the network that the calling thread is in; closed with the rest."""
        made = socket.socket(socket.AF_INET if self.family == 4 else socket.AF_INET6, self.kind, self.protocol_number)
        made.settimeout(PATIENCE_S)
        self._opened.append(made)
        return made

    def listen(self, shift: int = 0) -> socket.socket:
        """The origin: what takes connections, or datagrams."""
        with self.middle.origin:
            listener = self.make_socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.origin_at, self.origin_port + shift))
        if self.transport == "tcp":
            listener.listen(512)
        return listener

    def client(self, shift: int = 0, own_port: int = 0) -> socket.socket:
        """A client that has connected to the edge."""
        with self.middle.client:
            client = self.make_socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((self.client_at, own_port))
        client.connect((EDGE[self.family], self.port + shift))
        return client

    def accept(self, listener: socket.socket) -> socket.socket:
        server, _ = listener.accept()
        server.settimeout(PATIENCE_S)
        self._opened.append(server)
        return server

    def pair(self, listener: socket.socket | None = None) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection that is up."""
        listener = listener or self.listen()
        client = self.client()
        return client, self.accept(listener)

    def close(self) -> None:
        for opened in self._opened:
            opened.close()

    # What the edge says of it.

    def records(self, **wanted: object) -> list[dict[str, Any]]:
        found = self.middle.edge.events(self.id)
        return [record for record in found if all(record[name] == value for name, value in wanted.items())]

    def counters(self) -> dict[str, int]:
        return self.middle.edge.counters(self.id)

    def is_by_its_carrier(self, record: dict[str, Any]) -> bool:
        number: int = record["flow"]
        return (number >= FIRST_OF_THE_KERNEL) == (self.carrier == "kernel")

    def ended(self, cause: str, client_bytes: int, origin_bytes: int, shift: int = 0) -> dict[str, Any]:
        """The record of the one flow that there was: one, as of its beginning, by this carrier, to the byte."""

        def one() -> dict[str, Any]:
            (found,) = self.records(kind="disconnect")
            return found

        record = eventually(_or_not_yet(one), PATIENCE_S, every_s=0.1)
        (opened,) = self.records(kind="connect")
        assert self.is_by_its_carrier(record), f"{record['flow']:#x} is not of the {self.carrier}"
        for name in ("flow", "connect_time_ms"):
            assert opened[name] == record[name], f"{name}: {opened[name]} at first, {record[name]} at last"
        assert record["cause"] == cause, record
        counted = record["client_bytes"], record["origin_bytes"]
        assert counted == (client_bytes, origin_bytes), f"{counted} for {(client_bytes, origin_bytes)}: {record}"
        assert host(record["client"]) == self.client_at
        assert record["edge"] == f"{bracketed(EDGE[self.family])}:{self.port + shift}"
        assert record["origin"] == f"{bracketed(self.origin_at)}:{self.origin_port + shift}"
        return record

    def told(self, count: int, is_by_one: bool = True) -> list[dict[str, Any]]:
        """All records, once so many flows have ended; all of them by this carrier unless it was changed."""

        def ended() -> list[dict[str, Any]]:
            return self.records() if len(self.records(kind="disconnect")) == count else []

        found = eventually(ended, PATIENCE_S, every_s=0.1)
        assert not is_by_one or all(self.is_by_its_carrier(record) for record in found)
        return found

    def counted(self, **wanted: int) -> None:
        """These counters get these values, and keep them once nothing is open."""

        def is_so() -> bool:
            found = self.counters()
            assert {name: found[name] for name in wanted} == wanted
            return True

        eventually(is_so, PATIENCE_S, every_s=0.1)


def proxy_v2(ends: BothEnds, client: socket.socket, shift: int = 0) -> bytes:
    """What the origin has to be told by PROXY v2, from the words of the specification."""
    family = socket.AF_INET if ends.family == 4 else socket.AF_INET6
    addresses = b"".join(socket.inet_pton(family, of) for of in (ends.client_at, EDGE[ends.family]))
    ports = struct.pack("!HH", client.getsockname()[1], ends.port + shift)
    how = (0x10 if ends.family == 4 else 0x20) | (1 if ends.transport == "tcp" else 2)
    return b"\r\n\r\n\0\r\nQUIT\n\x21" + bytes([how]) + struct.pack("!H", len(addresses + ports)) + addresses + ports


def span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _or_not_yet(look: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """A wrong number of records is not there yet."""

    def looked() -> dict[str, Any]:
        try:
            return look()
        except ValueError as error:
            raise AssertionError(str(error)) from error

    return looked
