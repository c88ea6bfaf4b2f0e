"""Names follow edges: what is known of each becomes the table that name servers answer by, within a second.

An edge that says nothing is taken for gone only while control can hear: without the exchange, and for a while after it
is back, what was known last holds. So it does after a restart, by what was written down.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from causeway.control.plane import Plane
from causeway.control.state import Piece
from causeway.exchange.bus import EdgeRefused
from causeway.exchange.bus import Names as NamesHere
from causeway.exchange.words import Unreadable
from causeway.model.access_rule import Target
from causeway.model.edge import LOCAL
from causeway.model.names import EdgeSeen, Names, Terms, names_of, read_table
from causeway.model.problem import Code, Problem
from causeway.model.report import Report
from causeway.store import firewall_lists, zones

if TYPE_CHECKING:
    from causeway.exchange.nats_control import RemoteEdge

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # reports come as often
_TRUST_S = 10.0  # edges come back to the exchange within 3 s of each other, and report then
_AGAIN_S = 5.0
_AT_ONCE = 8  # edges that are told
_MOST_KEPT_BYTES = 16 << 20


class NameServer(NamesHere, Protocol):
    """Who answers by the table on this machine."""

    def counters(self) -> bytes:
        """Of questions, as JSON."""

    @property
    def table(self) -> bytes | None:
        """By which it answers now."""


class Directory:
    """What is known of edges, and a thread that has the name servers answer by it."""

    def __init__(self, plane: Plane, server: NameServer, terms: Terms, own: EdgeSeen, kept: Path) -> None:
        """`own`: this machine's edge. `kept`: where what is known of the others is written down."""
        self._plane, self._server, self._terms, self._own, self._kept = plane, server, terms, own, kept
        self._known: dict[str, EdgeSeen] = _read(kept)
        self._served: tuple[int, Names | None] | None = None
        self._places: str | None = None  # digest of the database that is in use
        self._knows_places = False
        self._hears_since_s: float | None = None
        self._unreadable: dict[str, str] = {}  # edges whose own words are, and why
        self._telling: dict[str, tuple[tuple[int, str], float]] = {}  # edges that answer names: what, and when
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="names")
        self._woken = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="names", daemon=True)

    def start(self) -> None:
        """Once the plane has its database."""
        before = self._plane.on_change

        def on_change() -> None:
            before()
            self._woken.set()

        self._plane.on_change = on_change
        if self._plane.fleet:
            self._plane.fleet.on_forget = self.forget
        self._thread.start()

    def stop(self) -> None:
        """Name servers go on with what they have."""
        self._is_over = True
        self._woken.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def forget(self, edge: str) -> None:
        """It is no edge any more."""
        self._known.pop(edge, None)
        self._woken.set()

    def told(self) -> dict[str, object]:
        """The table that is in use, and what the name server of this machine has been asked.

        Raises:
            Problem: there is none yet.
        """
        table = self._server.table
        if table is None:
            raise Problem(Code.INTERNAL, "names are not known yet: control is starting, try again", side="edge")
        counters = msgspec.json.decode(self._server.counters())
        return {"table": msgspec.json.decode(table), "knows_places": self._knows_places, "counters": counters}

    def _run(self) -> None:
        last = ""
        while not self._is_over:
            self._woken.clear()
            try:
                if self._plane.database is not None:
                    self.keep(time.monotonic())
                last = ""
            except Exception as error:  # whatever it is, the next look may go well
                if str(error) != last:
                    last = str(error)
                    log.error("names are answered as they were: %s", error, exc_info=not isinstance(error, Problem))
            self._woken.wait(_LOOK_S)

    def keep(self, now_s: float) -> None:
        """Look once, and have the name servers answer by what is seen.

        Raises:
            Problem: the database cannot be read.
        """
        with self._plane.reading() as connection:
            zone_names = [zone.name for zone in zones.every(connection)]
            databases = firewall_lists.databases(connection)
            digest = next((found.digest for found in databases if found.target is Target.COUNTRY), None)
            content = firewall_lists.content(connection, digest) if digest and digest != self._places else None
        if digest != self._places:
            self._places = digest
            why = self._server.set_places(content[1] if content else None)
            self._knows_places = content is not None and why is None
            if why:
                log.warning("names are answered without regard to where clients are: %s", why)
        self._look(now_s)
        pieces = [piece for piece in self._plane.state().pieces if not piece.unserved]
        edges = {LOCAL: self._local(pieces), **self._known}
        self._answer_by(names_of((piece.application for piece in pieces), zone_names, edges, self._terms))
        if self._plane.leads:
            self._tell_others(now_s)

    def _answer_by(self, names: Names) -> None:
        if self._served is None:
            self._served = _before(self._server.table)
        serial, before = self._served
        if names == before:
            return
        serial = max(serial + 1, int(time.time())) & 0xFFFF_FFFF
        self._server.set_table(names.table(serial))
        self._served = serial, names

    def _tell_others(self, now_s: float) -> None:
        """Have edges that answer names do it by the same table; one that fails is told again."""
        for edge in self._plane.fleet.exchange.edges() if self._plane.fleet else ():
            told = edge.told
            if told is None or edge.is_silent or not told.site.name_servers:
                continue
            wanted = self._server.serial, self._server.places_sha256
            if (told.names_serial, told.names_places) == wanted:
                continue
            before, since_s = self._telling.get(edge.name, ((0, ""), 0.0))
            if before == wanted and now_s - since_s < _AGAIN_S:  # it has, and says so in its next report
                continue
            self._telling[edge.name] = wanted, now_s
            self._pool.submit(self._tell, edge, told.names_places != wanted[1])

    def _tell(self, edge: RemoteEdge, is_of_places: bool) -> None:
        try:
            if self._server.table is not None:
                edge.put_names(self._server.table)
            if is_of_places:
                edge.put_places(self._content() if self._server.places_sha256 else b"")
        except (EdgeRefused, Problem) as error:
            log.warning("edge %s does not answer names by the newest table: %s", edge.name, error)

    def _content(self) -> bytes:
        with self._plane.reading() as connection:
            found = firewall_lists.content(connection, self._places) if self._places else None
        return found[1] if found else b""

    def _local(self, pieces: Iterable[Piece]) -> EdgeSeen:
        """As it is now: a change is answered when this machine serves it."""
        report = self._plane.exchange.report()
        return replace(
            self._own,
            is_fit=report is not None and not report.is_draining,
            serves=frozenset(piece.application.id for piece in pieces if piece.addresses),
            refused=_refused(report) if report else frozenset(),
        )

    def _look(self, now_s: float) -> None:
        """At edges of other machines."""
        fleet = self._plane.fleet
        if fleet is None:
            return
        if not fleet.exchange.is_connected:
            self._hears_since_s = None
        elif self._hears_since_s is None:
            self._hears_since_s = now_s
        may_judge = self._hears_since_s is not None and now_s - self._hears_since_s >= _TRUST_S
        seen = dict(self._known)
        heard = {edge.name: edge for edge in fleet.exchange.edges()}
        for name in {*seen, *heard}:
            edge = heard.get(name)
            told, report = (edge.told, edge.report()) if edge and not edge.is_silent else (None, None)
            if told and report:
                try:
                    seen[name] = EdgeSeen(
                        told.site.addresses(),
                        told.site.public(),
                        told.site.place(),
                        is_fit=not report.is_draining and report.version > 0,
                        serves=frozenset(str(one["id"]) for one in report.applications),
                        refused=_refused(report),
                        name_servers=told.site.answers_names(),
                        server_names=told.site.called(),
                    )
                except Unreadable as error:
                    if self._unreadable.get(name) != str(error):  # said once
                        self._unreadable[name] = str(error)
                        log.warning("edge %s cannot be in the names: %s", name, error)
                    seen.pop(name, None)
            elif may_judge and name in seen:
                seen[name] = replace(seen[name], is_fit=False)
        drained = self._plane.drained
        known = {name: replace(edge, is_drained=name in drained) for name, edge in seen.items() if name != LOCAL}
        if known != self._known:
            self._known = known
            _write(self._kept, known)


class _Kept(msgspec.Struct, frozen=True):
    """An edge as it is written down."""

    addresses: list[str]
    public: list[str]
    location: tuple[float, float] | None
    is_fit: bool
    is_drained: bool
    serves: list[str]
    refused: list[tuple[str, str]]
    name_servers: list[str]
    server_names: list[str]

    @staticmethod
    def of(edge: EdgeSeen) -> _Kept:
        addresses, public = [str(at) for at in edge.addresses], [str(at) for at in edge.public]
        serves, refused = sorted(edge.serves), sorted(edge.refused)
        servers, names = [str(at) for at in edge.name_servers], list(edge.server_names)
        fit, drained = edge.is_fit, edge.is_drained
        return _Kept(addresses, public, edge.location, fit, drained, serves, refused, servers, names)

    def edge(self) -> EdgeSeen:
        addresses = tuple(ip_address(text) for text in self.addresses)
        public = tuple(ip_address(text) for text in self.public)
        serves, refused = frozenset(self.serves), frozenset(self.refused)
        servers, names = tuple(ip_address(text) for text in self.name_servers), tuple(self.server_names)
        fit, drained = self.is_fit, self.is_drained
        return EdgeSeen(addresses, public, self.location, fit, drained, serves, refused, servers, names)


def _refused(report: Report) -> frozenset[tuple[str, str]]:
    return frozenset((listener.application, listener.address) for listener in report.refused)


def _before(table: bytes | None) -> tuple[int, Names | None]:
    try:
        read = read_table(table) if table else None
    except msgspec.MsgspecError:
        read = None  # of another version
    return (read.serial, read.content()) if read else (0, None)


def _read(kept: Path) -> dict[str, EdgeSeen]:
    try:
        with kept.open("rb") as file:
            read = msgspec.json.decode(file.read(_MOST_KEPT_BYTES), type=dict[str, _Kept])
        return {name: kept.edge() for name, kept in read.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # what msgspec raises is one
        log.warning("what was known of edges is forgotten: %s: %s", kept, error)
        return {}


def _write(kept: Path, known: dict[str, EdgeSeen]) -> None:
    fresh = kept.with_suffix(".new")
    try:
        fresh.write_bytes(msgspec.json.encode({name: _Kept.of(edge) for name, edge in known.items()}))
        fresh.rename(kept)
    except OSError as error:
        log.warning("what is known of edges is not written down: %s", error)
