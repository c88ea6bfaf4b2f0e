"""The control plane of this machine: the database, the edge, and the rule that they agree.

A change is one act: it is written, compiled, running on the edge and committed, or it did not happen.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from causeway.control import course as courses
from causeway.control.rulebook import asn_of, firewalls_of
from causeway.control.state import Drained, Edit, NewRules, Piece, Site, State, Steered, Switched, served
from causeway.exchange.bus import ControlSide, EdgeRefused
from causeway.model.application import Address, Application
from causeway.model.claims import Claims
from causeway.model.edge import LOCAL
from causeway.model.paths import Peer, encode_overlay, on_paths
from causeway.model.problem import Code, Problem, Side
from causeway.model.report import ApplyReport, Report
from causeway.model.rollout import Course, Form, RolloutState
from causeway.model.smart import is_steered
from causeway.model.snapshot import encode_application, encode_snapshot
from causeway.store import access_rules, edge_certificates, edges, leases, rollouts, sequences, switches, zone_settings
from causeway.store import applications as stored
from causeway.store.database import Database, NotLeading, StoreError

if TYPE_CHECKING:
    from causeway.control.fleet import Fleet
    from causeway.control.names import Directory
    from causeway.control.nodes import Nodes
    from causeway.control.routes import Routing

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Plane:
    """Everything that control knows. One change at a time; reading waits for nobody.

    `mitigates`: automatic mitigation is on.
    `unavailable` says why control cannot work, `out_of_step` why the edge does not serve what is stored.
    """

    site: Site
    exchange: ControlSide
    database: Database | None = None
    unavailable: str | None = "the control plane is starting"
    out_of_step: str | None = None
    pieces: dict[str, Piece] = field(default_factory=dict)
    firewalls: dict[str, bytes] = field(default_factory=dict)  # encoded, by zone: where an application has it on
    asn: str | None = None  # digest of the database by which applications are limited
    claims: Claims = field(default_factory=Claims)
    mitigates: bool = True
    drained: frozenset[str] = frozenset()  # edges of other machines
    smart_zones: frozenset[str] = frozenset()  # with smart routing for all of their applications that it can be for
    elsewhere: frozenset[Address] = frozenset()  # what those have reported to have
    peers: tuple[Peer, ...] = ()  # edges that others hand flows to, this machine's among them
    course: Course = field(default_factory=Course)  # of changes, towards edges of other machines
    version: int = 0
    next_expiry: datetime | None = None  # of a rule
    fleet: Fleet | None = None  # edges of other machines
    directory: Directory | None = None  # of names
    routing: Routing | None = None  # of flows over other edges
    nodes: Nodes | None = None  # of control, where there may be several
    on_change: Callable[[], None] = lambda: None  # what this machine's edge serves is another state now
    _changing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def term(self) -> int | None:
        """In which this node leads, of several; 0 where it is alone."""
        return self.nodes.term if self.nodes else 0

    @property
    def leads(self) -> bool:
        """Whether edges of other machines hear from this node, and the database is written by it."""
        return self.term is not None

    def open(self, database: Database, *, is_leading: bool = True) -> None:
        """Take the database into use, or read it anew, and bring the edge to what it says.

        Raises:
            StoreError: it cannot be read or written.
        """
        with self._changing:
            with database.read() as connection:
                number = leases.writes(connection)
                everything = list(stored.every(connection))
                self.version = max(self.version, sequences.snapshot_version(connection))
                self._take_up(everything)
                self.course = rollouts.course(connection)
                asking = _asking(self.pieces, self.course)
                self.firewalls = firewalls_of(connection, self.exchange, asking, {})
                self.asn = asn_of(connection, self.exchange, asking)
                self.next_expiry = access_rules.next_expiry(connection)
                self.mitigates = switches.is_mitigation_on(connection)
                self.drained = edges.drained(connection)
                self.smart_zones = zone_settings.zones_with(connection, zone_settings.SMART_ROUTING)
            database.known_writes = number
            self._settle()
            if is_leading:
                with database.write() as connection:
                    sequences.set_snapshot_version(connection, self.version)
            self.database = database
            self.unavailable = None
        self.on_change()

    def settle(self) -> None:
        """Bring the edge to what is stored, if it is not there."""
        with self._changing:
            if self.out_of_step:
                self._settle()

    def sides(self) -> list[ControlSide]:
        """Of every edge that can be asked now, this machine's first."""
        remote = [edge for edge in self.fleet.exchange.edges() if not edge.is_silent] if self.fleet else []
        return [self.exchange, *remote] if self.site.has_edge else list(remote)

    def reports(self) -> dict[str, Report]:
        """The newest of every edge by name, those that are silent too; this machine's is called local, and first."""
        remote = [(edge.name, edge.report()) for edge in self.fleet.exchange.edges()] if self.fleet else []
        own = [(LOCAL, self.exchange.report())] if self.site.has_edge else []
        return {name: report for name, report in (*own, *remote) if report}

    def state(self) -> State:
        """Waits for a change that is being made."""
        with self._changing:
            pieces, firewalls = tuple(self.pieces.values()), tuple(self.firewalls.values())
            told = self.asn, self.mitigates, self.drained, self.peers, self.course, self.smart_zones
            return State(self.version, pieces, firewalls, *told)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view of the database; a failing one becomes a Problem."""
        with told(), self._open().read() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Change what no edge needs to hear of."""
        with self._changing, told(), self._open().write() as connection:
            yield connection

    def name_of(self, application_id: str) -> str | None:
        """What people call an application; nothing if it is gone."""
        piece = self.pieces.get(application_id)
        return (piece.application.extension.name or piece.application.dns.name) if piece else None

    def change(self, write: Callable[[Connection], Edit | NewRules | Switched | Drained | Steered | None]) -> None:
        """Change one application, the rules of the firewall, or what is on or off, everywhere or nowhere.

        `write` changes the rows and answers what became of the application, or nothing if nothing changed.

        Raises:
            Problem: from `write`, or because database or edge refused; nothing was changed.
        """
        with self._changing, told():
            if self.out_of_step:
                self._settle()
            before, is_begun = self.pieces, False
            try:
                with self._open().write() as connection:
                    edit = write(connection)
                    if edit is None:
                        return
                    is_begun = True
                    after = self._edited(edit) if isinstance(edit, Edit) else before
                    course = self.course
                    if isinstance(edit, Edit):
                        course = self._course_after(before, after, edit)
                        self._keep_course(connection, course)
                    asking = _asking(after, course)
                    known = {} if isinstance(edit, NewRules) else self.firewalls
                    firewalls = firewalls_of(connection, self.exchange, asking, known)
                    asn = asn_of(connection, self.exchange, asking)
                    if self.fleet and not isinstance(edit, Switched | Drained | Steered):
                        self._check_size(after, firewalls)
                    next_expiry = access_rules.next_expiry(connection)
                    mitigates = edit.is_on if isinstance(edit, Switched) else self.mitigates
                    drained = edit.edges if isinstance(edit, Drained) else self.drained
                    smart_zones = edit.smart_zones if isinstance(edit, Steered) else self.smart_zones
                    if isinstance(edit, Edit):
                        _refuse_if_not_running(
                            self._deliver(after, firewalls, asn, mitigates, course, smart_zones), edit.application_id
                        )
                    elif (firewalls, asn, mitigates, smart_zones) != (
                        self.firewalls,
                        self.asn,
                        self.mitigates,
                        self.smart_zones,
                    ):
                        self._deliver(after, firewalls, asn, mitigates, course, smart_zones)
                    sequences.set_snapshot_version(connection, self.version)
            except BaseException:
                if is_begun:
                    self._put_back(before)
                    self._settle()
                raise
            self.pieces, self.firewalls, self.next_expiry = after, firewalls, next_expiry
            self.asn, self.mitigates, self.drained, self.course = asn, mitigates, drained, course
            self.smart_zones = smart_zones
        self.on_change()

    def steer(
        self,
        turn: Callable[[Connection, Course, dict[str, Application]], Course],
        ended: RolloutState = RolloutState.SUPERSEDED,
    ) -> None:
        """Change which edges of other machines get what; this machine's does not hear of it.

        `turn` makes the new course, of the present one and of what is stored and served. `ended`: what that makes of
        rollouts that are neither open nor halted then.
        """
        with self._changing, told():
            with self._open().write() as connection:
                course = turn(connection, self.course, served(self.pieces.values()))
                self._keep_course(connection, course, ended)
            self.course = course
        self.on_change()

    def _course_after(self, before: dict[str, Piece], after: dict[str, Piece], edit: Edit) -> Course:
        if self.fleet is None or not (self.course.holds or self.fleet.is_staging):
            return self.course
        touched = [key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)]
        wanted = served(after.values())
        course = courses.edited(self.course, served(before.values()), wanted, touched)
        return courses.released(course, wanted, (edit.application_id,)) if edit.is_now else course

    def _check_size(self, pieces: dict[str, Piece], firewalls: dict[str, bytes]) -> None:
        """Refuse what grows beyond what the way to edges of other machines takes."""

        def parts(of: dict[str, Piece], walls: dict[str, bytes]) -> list[bytes]:
            return [*(piece.encoded for piece in of.values()), *walls.values()]

        after = parts(pieces, firewalls)
        if self.fleet and sum(map(len, after)) > sum(map(len, parts(self.pieces, self.firewalls))):
            self.fleet.check_size(after)

    def _keep_course(
        self, connection: Connection, course: Course, ended: RolloutState = RolloutState.SUPERSEDED
    ) -> None:
        rollouts.save(connection, self.course, course, int(now().timestamp() * 1000), ended)
        rollouts.forget_rules(connection, course)

    def set_elsewhere(self, addresses: frozenset[Address]) -> None:
        """Know these for the addresses of edges of other machines, from now on.

        What is served stays: where two applications want the same port of an edge that came later, the edge refuses
        one of them and says so.
        """
        with self._changing:
            self.elsewhere, self.claims = addresses, Claims()
            for key, piece in self.pieces.items():
                if not piece.unserved:
                    self.pieces[key] = replace(piece, claimed=self._claim(piece.application))

    def set_peers(self, peers: tuple[Peer, ...]) -> None:
        """Know these for the edges that flows can go over, from now on; each hears who the others are."""
        with self._changing:
            self.peers = self.with_own(peers)
            self._settle()
            if self.database and not self.unavailable and self.leads:
                with told(), self.database.write() as connection:
                    sequences.set_snapshot_version(connection, self.version)
        self.on_change()

    def with_own(self, peers: Iterable[Peer]) -> tuple[Peer, ...]:
        own = (Peer(LOCAL, self.site.overlay),) if self.site.overlay else ()
        return (*own, *peers)

    def knows_edge(self, connection: Connection, name: str) -> bool:
        """Whether there is an edge of that name, heard of or certified."""
        if name == LOCAL or any(peer.name == name for peer in self.peers):
            return True
        if self.fleet is None:
            return False
        is_heard_of = any(edge.name == name for edge in self.fleet.exchange.edges())
        return is_heard_of or edge_certificates.is_member(connection, name, int(now().timestamp()))

    def claimed(self, application: Application) -> tuple[Address, ...]:
        """Where it is to listen, on whichever edge: those that are known, and what it names itself."""
        if self.fleet and application.edge_ips.is_static:
            return application.edge_ips.static
        own = self.site.edge_addresses
        return application.edge_addresses((*own, *sorted(self.elsewhere - set(own), key=_by_version)))

    def _claim(self, application: Application) -> tuple[Address, ...]:
        """Of those, what nobody has yet."""
        free = tuple(at for at in self.claimed(application) if not self.claims.rival(application, (at,)))
        self.claims.add(application, free)
        return free

    def _take_up(self, everything: Iterable[Application]) -> None:
        """Start the books anew; who came first keeps its ports."""
        self.claims = Claims()
        self.pieces = {application.id: self._compile(application) for application in everything}

    def _put_back(self, before: dict[str, Piece]) -> None:
        self.pieces, self.claims = before, Claims()
        for piece in before.values():
            if not piece.unserved:
                self.claims.add(piece.application, piece.claimed)

    def _edited(self, edit: Edit) -> dict[str, Piece]:
        """The books after the edit. `_put_back` undoes it."""
        after = dict(self.pieces)
        before = after.get(edit.application_id)
        if before and not before.unserved:
            self.claims.remove(before.application, before.claimed)
        if edit.application:
            after[edit.application_id] = self._compile(edit.application)
        else:
            after.pop(edit.application_id, None)
        for key, piece in after.items():  # what was in the way may be gone
            if piece.unserved and key != edit.application_id:
                after[key] = self._compile(piece.application)
        return after

    def _compile(self, application: Application) -> Piece:
        """Claim its ports and encode it; or say why it has to wait, after a start with other edge addresses."""
        addresses = application.edge_addresses(self.site.edge_addresses)
        if not addresses and not (self.fleet and (application.edge_ips.is_static or not self.site.has_edge)):
            return Piece(application, (), b"", "this edge has none of its addresses: start with a fitting --edge-ip")
        wanted = self.claimed(application)
        if found := self.claims.rival(application, wanted):
            return Piece(application, addresses, b"", f"its port on {found[1]} belongs to application {found[0]}")
        self.claims.add(application, wanted)
        return Piece(application, addresses, encode_application(application, addresses or wanted), claimed=wanted)

    def _deliver(
        self,
        pieces: dict[str, Piece],
        firewalls: dict[str, bytes],
        asn: str | None,
        mitigates: bool,
        course: Course,
        smart_zones: frozenset[str],
    ) -> ApplyReport:
        """Offer a snapshot under a version that no edge has seen, whatever became of the last one."""
        report = self.exchange.report()
        self.version = max(self.version, report.version if report else 0) + 1
        here = {key: piece for key, piece in pieces.items() if piece.addresses and not piece.unserved}
        settings, overlay = replace(self.site.settings, mitigation=mitigates), None
        exits: courses.Exits = {}
        if self.site.overlay:
            overlay = encode_overlay(LOCAL, self.site.overlay, self.peers)
            forms = (Form(piece.application, piece.encoded) for piece in pieces.values() if not piece.unserved)
            exits = courses.exits(course, forms, smart_zones)

        def told() -> Iterator[bytes]:
            for key, piece in here.items():
                paths, is_last = piece.application.extension.paths, courses.ends_at(exits, LOCAL, key)
                is_smart = overlay is not None and is_steered(piece.application, smart_zones)
                yield on_paths(piece.encoded, paths, LOCAL, is_last=is_last, is_steered=is_smart)
            yield from courses.handed_over(exits, LOCAL, here, smart_zones)

        return self.exchange.deliver(encode_snapshot(self.version, settings, told(), firewalls.values(), asn, overlay))

    def _settle(self) -> None:
        """Deliver what is stored."""
        try:
            self._deliver(self.pieces, self.firewalls, self.asn, self.mitigates, self.course, self.smart_zones)
            self.out_of_step = None
        except Exception as error:  # whatever it is, nobody may think that the edge agrees
            code = error.code if isinstance(error, EdgeRefused) else type(error).__name__
            self.out_of_step = f"the edge refused the stored state ({code}): {error}"
            log.error("%s; it goes on with what it had", self.out_of_step)

    def _open(self) -> Database:
        if self.database is None or self.unavailable:
            raise Problem(Code.INTERNAL, self.unavailable or "the control plane is starting", side="edge")
        return self.database


def _by_version(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def _asking(pieces: dict[str, Piece], course: Course) -> list[Application]:
    """What is served here, and what edges of other machines still serve."""
    forms = (form for hold in course.holds.values() for form in (hold.before, hold.staged) if form)
    return [*served(pieces.values()).values(), *(form.application for form in forms)]


def _refuse_if_not_running(report: ApplyReport, application_id: str) -> None:
    for listener in report.refusals(application_id):
        reason = listener.reason.message if listener.reason else "the edge could not listen there"
        side: Side = "operator" if listener.reason and listener.reason.side == "operator" else "edge"
        raise Problem(Code.PORT, reason, pointer="/protocol", side=side)


@contextmanager
def told() -> Iterator[None]:
    """Failures of database and edge, as the caller of the API hears them."""
    try:
        yield
    except NotLeading as error:
        why = f"{error}; nothing was changed"
        raise Problem(Code.NOT_LEADING, why, side="edge", retry_after_s=2) from error
    except StoreError as error:
        log.error("%s", error)
        raise Problem(
            Code.INTERNAL, f"{error}; nothing was changed, traffic goes on, try again", side="edge"
        ) from error
    except EdgeRefused as error:
        log.error("the edge refused a snapshot (%s): %s", error.code, error)
        raise Problem(
            Code.INTERNAL, f"the edge refused the change ({error.code}): {error}; nothing was changed", side="edge"
        ) from error


def now() -> datetime:
    return datetime.now(UTC)
