"""What goes over the wire between control and edges of other machines: names, sizes, questions and answers. Pure.

Subjects of NATS: an edge speaks under `causeway.up.<name>` and is spoken to under `causeway.down.<name>`, so that one
permission for each is all that it needs. Whatever comes in is bounded before it is read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import TypeVar

import msgspec

from causeway import __version__
from causeway.exchange.nats_jwt import Rights
from causeway.model.application import Address
from causeway.model.hostname import hostname
from causeway.model.report import Report
from causeway.model.snapshot import Settings, socket_text

MOST_SNAPSHOT_BYTES = 256 << 20
MOST_REPORT_BYTES = 64 << 20
_MOST_ENROL_BYTES = 16 * 1024
_MOST_OF_NAMES = 64  # addresses of one edge, or names
TERM = "Causeway-Term"  # a header of a snapshot: which control has made it, of several
SNAPSHOTS = "causeway_snapshots"  # the bucket of the key-value store: by edge
STREAM = f"KV_{SNAPSHOTS}"  # what the bucket is made of
REPORTS = "causeway.up.*.report"
CHUNKS = "causeway.up.*.chunk"
RENEWALS = "causeway.up.*.renew"
ENROLMENTS = "causeway.enrol.*"
REFUSED = "refused"  # the code of an answer that will be the same again
_T = TypeVar("_T")


class Unreadable(Exception):
    """Somebody sent what no causeway sends; the message says what."""


def report_subject(name: str) -> str:
    return f"causeway.up.{name}.report"


def ask_subject(name: str) -> str:
    return f"causeway.down.{name}.ask"


def chunk_subject(name: str) -> str:
    return f"causeway.up.{name}.chunk"


def renew_subject(name: str) -> str:
    return f"causeway.up.{name}.renew"


def enrol_subject(invitation: str) -> str:
    return f"causeway.enrol.{invitation}"


def rights(name: str) -> Rights:
    """What an edge may do on the exchange: speak and be spoken to as itself, and read its own snapshot."""
    stored = f"$JS.API.DIRECT.GET.{STREAM}.{snapshot_subject(name)}"
    heard = (f"causeway.down.{name}.>", snapshot_subject(name), f"causeway.inbox.{name}.>")
    return Rights((f"causeway.up.{name}.>", stored), heard, answers=True)


def term_of(headers: Mapping[str, str] | None) -> int:
    """Of a snapshot; 0 where there is one control alone."""
    told = (headers or {}).get(TERM, "0")
    return int(told) if told.isascii() and told.isdigit() else 0


def snapshot_subject(name: str) -> str:
    """Where the key-value store itself hears of a new snapshot: a plain subscription there needs no consumer."""
    return f"$KV.{SNAPSHOTS}.{name}"


class Site(msgspec.Struct, frozen=True):
    """What an edge's operator has said of it: control makes its snapshots by that."""

    edge_addresses: list[str]
    source_addresses: list[str] = []
    origin_deny: list[str] = []
    origin_deny_sockets: list[tuple[str, int]] = []
    allow_loopback_origins: bool = False
    resolvers: list[tuple[str, int]] = []
    overlay: str = ""  # where it listens for other edges, HOST:PORT; nothing: nowhere
    public_addresses: list[str] = []  # what names are answered with, where it is not what it listens on
    location: tuple[float, float] | None = None  # degrees north and east
    name_servers: list[str] = []  # where it answers names
    server_names: list[str] = []  # what it is called as one

    @staticmethod
    def of(
        edge_addresses: Iterable[Address],
        terms: Settings,
        public: Iterable[Address] = (),
        location: tuple[float, float] | None = None,
        name_servers: Iterable[Address] = (),
        server_names: Iterable[str] = (),
        overlay: str = "",
    ) -> Site:
        def sockets(of: Iterable[tuple[Address, int]]) -> list[tuple[str, int]]:
            return [(str(address), port) for address, port in of]

        return Site(
            [str(address) for address in edge_addresses],
            [str(address) for address in terms.source_addresses],
            [str(network) for network in terms.origin_deny],
            sockets(terms.origin_deny_sockets),
            terms.allow_loopback_origins,
            sockets(terms.resolvers),
            overlay,
            [str(address) for address in public],
            location,
            [str(address) for address in name_servers],
            list(server_names),
        )

    def addresses(self) -> tuple[Address, ...]:
        """Raises Unreadable."""
        with _understood():
            return tuple(ip_address(text) for text in self.edge_addresses)

    def overlay_address(self) -> str:
        """Where it listens for other edges, nothing where it does not. Raises Unreadable."""
        if not self.overlay:
            return ""
        host, _, port = self.overlay.rpartition(":")
        with _understood():
            return socket_text(ip_address(host.removeprefix("[").removesuffix("]")), int(port) % 65_536)

    def public(self) -> tuple[Address, ...]:
        """Raises Unreadable."""
        with _understood():
            return tuple(ip_address(text) for text in self.public_addresses[:_MOST_OF_NAMES])

    def place(self) -> tuple[float, float] | None:
        """Raises Unreadable."""
        if self.location and not (-90 <= self.location[0] <= 90 and -180 <= self.location[1] <= 180):
            raise Unreadable(f"{self.location} is no place")
        return self.location

    def answers_names(self) -> tuple[Address, ...]:
        """Where. Raises Unreadable."""
        with _understood():
            return tuple(ip_address(text) for text in self.name_servers[:_MOST_OF_NAMES])

    def called(self) -> tuple[str, ...]:
        """As a name server. Raises Unreadable."""
        found = tuple(hostname(text) for text in self.server_names[:_MOST_OF_NAMES])
        if None in found:
            raise Unreadable("what it is called as a name server is no hostname")
        return tuple(name for name in found if name)

    def terms(self) -> Settings:
        """Raises Unreadable."""

        def sockets(of: Iterable[tuple[str, int]]) -> tuple[tuple[Address, int], ...]:
            return tuple((ip_address(text), port) for text, port in of)

        with _understood():
            return Settings(
                origin_deny=tuple(ip_network(text) for text in self.origin_deny),
                origin_deny_sockets=sockets(self.origin_deny_sockets),
                allow_loopback_origins=self.allow_loopback_origins,
                resolvers=sockets(self.resolvers),
                source_addresses=tuple(ip_address(text) for text in self.source_addresses),
            )


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Unreadable(str(error)) from error


class Told(msgspec.Struct, frozen=True):
    """An edge's report, with what control has to know besides."""

    site: Site
    report: msgspec.Raw
    software: str = __version__
    names_serial: int = 0  # by which table it answers names
    names_places: str = ""  # and by which database of places: its SHA-256
    term: int = 0  # the latest of control that it has seen


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """Take the snapshot of this revision, or a later one, now."""

    revision: int


class Observe(msgspec.Struct, frozen=True, tag="observe"):
    pass


class Listen(msgspec.Struct, frozen=True, tag="listen"):
    """Somebody reads events for the next `lease_s` seconds."""

    lease_s: float


class PutBlob(msgspec.Struct, frozen=True, tag="put_blob"):
    """Take in a list or database of that SHA-256, and fetch it in chunks."""

    sha256: str
    size_bytes: int
    kind: str
    overlaps: bool
    private: bool


class PutNames(msgspec.Struct, frozen=True, tag="put_names"):
    """Answer names by the table of that SHA-256, and fetch it in chunks."""

    sha256: str
    size_bytes: int


class PutPlaces(msgspec.Struct, frozen=True, tag="put_places"):
    """The same with the database of places; 0 bytes: have none."""

    sha256: str
    size_bytes: int


class HasBlob(msgspec.Struct, frozen=True, tag="has_blob"):
    digest: str


class AllRuleHits(msgspec.Struct, frozen=True, tag="rule_hits"):
    pass


class Steer(msgspec.Struct, frozen=True, tag="steer"):
    """Have flows go these ways, as `model.routes` writes them."""

    routes: msgspec.Raw


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    application: str
    client: str
    port: int


Ask = Apply | Observe | Listen | PutBlob | PutNames | PutPlaces | HasBlob | AllRuleHits | Explain | Steer


class Chunk(msgspec.Struct, frozen=True):
    """From an edge: the bytes from there on, as many as a message takes. They are the answer as it is."""

    sha256: str
    offset: int


class Enrol(msgspec.Struct, frozen=True):
    """From who was invited, or is an edge and wants to stay one: certify this key (PKCS #10, PEM)."""

    request: str


class Granted(msgspec.Struct, frozen=True):
    certificate: str
    jwt: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value, or why not, in the words of EdgeRefused."""

    value: msgspec.Raw = msgspec.Raw(b"null")
    code: str = ""
    message: str = ""


_ask: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)
_answer = msgspec.json.Decoder(Answer)
_chunk = msgspec.json.Decoder(Chunk)
_enrol = msgspec.json.Decoder(Enrol)
_told = msgspec.json.Decoder(Told)


def pack(message: msgspec.Struct | bytes) -> bytes:
    return zlib.compress(message if isinstance(message, bytes) else msgspec.json.encode(message), 1)


def unpack(data: bytes, most_bytes: int) -> bytes:
    """Raises Unreadable: it is not whole, or larger than that."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, most_bytes)
    except zlib.error as error:
        raise Unreadable(f"it is not compressed as it should be: {error}") from error
    if inflater.unconsumed_tail:
        raise Unreadable(f"it is larger than {most_bytes} bytes")
    if not inflater.eof:
        raise Unreadable("its end is missing")
    return content


def read_ask(data: bytes) -> Ask:
    """Raises Unreadable."""
    return _read(_ask, data)


def read_chunk(data: bytes) -> Chunk:
    """Raises Unreadable."""
    return _read(_chunk, data)


def read_enrol(data: bytes) -> Enrol:
    """Raises Unreadable."""
    if len(data) > _MOST_ENROL_BYTES:
        raise Unreadable(f"it is larger than {_MOST_ENROL_BYTES} bytes")
    return _read(_enrol, data)


def read_answer(data: bytes) -> Answer:
    """Raises Unreadable."""
    return _read(_answer, unpack(data, MOST_REPORT_BYTES))


def read_told(data: bytes) -> tuple[Told, Report]:
    """Raises Unreadable."""
    told = _read(_told, unpack(data, MOST_REPORT_BYTES))
    return told, _read(msgspec.json.Decoder(Report), told.report)


def _read(decoder: msgspec.json.Decoder[_T], data: bytes | msgspec.Raw) -> _T:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error)) from error
