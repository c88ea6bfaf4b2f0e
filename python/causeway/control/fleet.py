"""Edges of other machines follow: after each change that this machine's edge serves, each gets a snapshot of its own.

What each may have of it, `stages` says. Nobody waits for them. One that is away takes the newest snapshot when it is
back, and serves its last good one until then. What an edge cannot serve (it has none of an application's addresses) is
told in `causeway status`.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace

from causeway.control import course as courses
from causeway.control import peers
from causeway.control.plane import Plane
from causeway.control.stages import BAKE_S, Stages, Standing, stored_forms
from causeway.control.state import State
from causeway.exchange.authority import RENEWED_AFTER_S, Authority
from causeway.exchange.bus import EdgeRefused
from causeway.exchange.nats_control import NatsControl, RemoteEdge
from causeway.exchange.words import Site, Unreadable, pack
from causeway.model.application import Address
from causeway.model.edge import LOCAL
from causeway.model.paths import Peer, encode_overlay, on_paths
from causeway.model.problem import Code, Problem
from causeway.model.rollout import Form
from causeway.model.smart import is_steered
from causeway.model.snapshot import at_addresses, content_digest, encode_snapshot
from causeway.store import edge_certificates, firewall_lists

log = logging.getLogger(__name__)

_AT_ONCE = 16  # deliveries
_AGAIN_S = 5.0  # to those that did not take theirs
_ROUND_S = 2.0  # somebody who does not answer holds the others up for so long at most
_LOOK_S = 0.3  # while a rollout is under way
_SETTLE_S = 5.0  # after a connection: edges report once a second, and come back within three
_FOR_APPLICATIONS = 0.95  # of a message


class Sheets:
    """What edges get of one state, in one term: with the open rollout, without it, and what is stored."""

    def __init__(self, state: State, term: int) -> None:
        self.term = term
        self.stored = stored_forms(state)
        self.early = courses.forms(state.course, self.stored, is_reached=False)
        self.reached = courses.forms(state.course, self.stored, is_reached=True)
        self.exits = courses.exits(state.course, self.stored, state.smart_zones)


class Fleet:
    """Those edges, and a thread that keeps them at what the plane says."""

    def __init__(
        self,
        plane: Plane,
        connect: Callable[[Callable[[], None]], NatsControl],
        authority: Authority | None = None,
        identify: Callable[[bytes], None] = lambda _: None,
        bake_s: float = BAKE_S,
    ) -> None:
        """`authority`: where edges are certified here, who does it; `identify`: tells this machine's edge who it is.

        `bake_s`: how long each stage is looked at.
        """
        self._plane, self.authority, self._bake_s, self._stages = plane, authority, bake_s, Stages(plane, bake_s)
        self._identify_own = identify
        self._woken = threading.Event()
        self._is_over = False
        self._standings: dict[str, Standing] = {}
        self._busy: dict[str, Future[None]] = {}  # deliveries that take long
        self._connected_s: float | None = None
        self._identified_until_s = 0.0
        self._kept_peers_at = authority.folder / "peers.json" if authority else None
        self._peers = peers.kept(self._kept_peers_at)
        plane.peers = plane.with_own(Peer(name, address) for name, address in sorted(self._peers.items()))
        self.linger_s = 0.0  # how long clients still come to a drained edge, by its name
        self._drained_at_s: dict[str, float] = {}
        self.on_forget: Callable[[str], None] = lambda name: None
        self.exchange = connect(self._woken.set)
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    def start(self) -> None:
        """Once the plane has its database."""
        self.prepare()
        self._drained_at_s = dict.fromkeys(self._plane.drained, float("-inf"))  # before this process
        self._plane.on_change = self._woken.set
        self.exchange.start()
        self._thread.start()

    def begin_term(self) -> None:
        """This node leads from now on: what another one has delivered meanwhile is not known."""
        self._standings, self._stages = {}, Stages(self._plane, self._bake_s)
        self._connected_s = time.monotonic() if self.exchange.is_connected else None
        self._woken.set()

    def stop(self) -> None:
        self._is_over = True
        self.exchange.stop()  # who waits for an edge hears that there will be no answer
        self._woken.set()

    def standing(self, name: str) -> Standing | None:
        return self._standings.get(name)

    def prepare(self) -> None:
        """Write what nats-server starts from; the one that runs is told of those that were revoked by itself."""
        if self.authority is None:
            return
        try:
            with self._plane.reading() as connection:
                revoked = edge_certificates.revoked(connection, int(time.time()))
            path = self.authority.prepare_server(revoked)
        except (OSError, Problem) as error:
            log.error("what nats-server starts from could not be written: %s", error)
        else:
            log.info("nats-server for other edges: nats-server -c %s", shlex.quote(str(path)))

    def forget(self, name: str) -> None:
        """Raises Unreachable: nats-server does not know of it yet."""
        self.prepare()  # what it starts from says it too
        try:
            self.exchange.forget(name)
        finally:
            self._standings.pop(name, None)
            self._peers.pop(name, None)
            self.on_forget(name)
            self._woken.set()  # others must hear that it is none of them

    @property
    def is_staging(self) -> bool:
        """Whether there are edges of other machines, or may be: then what touches anything goes out in stages."""
        return not self._is_settled or bool(self.exchange.edges())

    @property
    def _is_settled(self) -> bool:
        """Whether all who are there have had time to say so."""
        since_s = self._connected_s
        return since_s is not None and time.monotonic() - since_s >= _SETTLE_S

    def check_size(self, pieces: Iterable[bytes]) -> None:
        """Raises Problem: the exchange does not carry a snapshot with these parts."""
        content, most_bytes = b",".join(pieces), self.exchange.most_bytes
        if len(content) > most_bytes and (size := len(pack(content))) > most_bytes * _FOR_APPLICATIONS:
            raise Problem(
                Code.SNAPSHOT_TOO_LARGE,
                f"the snapshot for edges of other machines would have {size} bytes, and the exchange takes "
                f"{most_bytes}: raise max_payload of nats-server, or delete applications first",
            )

    def _run(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fleet") as pool:
            while True:
                self._woken.clear()
                if self._is_over:
                    return
                edges, is_moving = self.exchange.edges(), False
                self._note_connection()
                try:
                    if self._plane.database is not None:
                        self._learn_addresses(edges)
                        self._learn_peers(edges)
                    term = self._plane.term  # first: what is of this term is not known before
                    if self._plane.database is not None and term is not None:
                        state = self._plane.state()
                        self._follow_all(pool, edges, state, term)
                        is_moving = self._stages.step(state, edges, self._standings, is_settled=self._is_settled)
                except Exception:  # whatever it is, the next round may go well
                    log.exception("edges of other machines could not be brought to the newest state")
                has_trouble = self._plane.leads and any(self._has_trouble(edge) for edge in edges)
                again_s = [_LOOK_S] if is_moving else [_AGAIN_S] if has_trouble else []
                self._woken.wait(min(again_s + self._until_shut_s(), default=None))

    def _note_connection(self) -> None:
        if not self.exchange.is_connected:
            self._connected_s = None
        elif self._connected_s is None:
            self._connected_s = time.monotonic()

    def _follow_all(self, pool: ThreadPoolExecutor, edges: list[RemoteEdge], state: State, term: int) -> None:
        """Nobody waits long for one edge; there is never more than one delivery to it."""
        sheets = Sheets(state, term)
        for edge in edges:
            if edge.name not in self._busy:
                self._busy[edge.name] = pool.submit(self._follow, edge, state, sheets)
        done, late = wait(self._busy.values(), _ROUND_S)
        self._busy = {name: future for name, future in self._busy.items() if future in late}
        for future in late:
            future.add_done_callback(lambda _: self._woken.set())
        for future in done:
            if error := future.exception():
                log.error("an edge of another machine could not be brought to the newest state", exc_info=error)

    def _is_shut(self, name: str, drained: frozenset[str]) -> bool:
        """Drained, and for so long that nobody is on the way to it any more."""
        if name not in drained:
            self._drained_at_s.pop(name, None)
            return False
        return time.monotonic() - self._drained_at_s.setdefault(name, time.monotonic()) >= self.linger_s

    def _until_shut_s(self) -> list[float]:
        left_s = [at_s + self.linger_s - time.monotonic() for at_s in list(self._drained_at_s.values())]
        return [max(0.0, found) + 0.1 for found in left_s if found > -0.5]  # it may have come while we looked

    def _learn_addresses(self, edges: list[RemoteEdge]) -> None:
        found: set[Address] = set()
        for edge in edges:
            with suppress(Unreadable):  # told when it is to be served
                found.update(edge.told.site.addresses() if edge.told else ())
        if found != self._plane.elsewhere:
            self._plane.set_elsewhere(frozenset(found))

    def _learn_peers(self, edges: list[RemoteEdge]) -> None:
        """Who speaks to other edges, and that this machine's edge may. Who is away stays one of them."""
        self._identify()
        for edge in edges:
            with suppress(Unreadable):
                if edge.told and (address := edge.told.site.overlay_address()):
                    self._peers[edge.name] = address
                elif edge.told:
                    self._peers.pop(edge.name, None)
        drained = self._plane.drained
        found = tuple(Peer(name, address, name in drained) for name, address in sorted(self._peers.items()))
        own = tuple(peer for peer in self._plane.peers if peer.name == LOCAL)
        if (*own, *found) != self._plane.peers or bool(own) != bool(self._plane.site.overlay):
            peers.keep(self._kept_peers_at, self._peers)
            self._plane.set_peers(found)

    def _identify(self) -> None:
        if self.authority is None or not self._plane.site.overlay or time.monotonic() < self._identified_until_s:
            return
        self._identify_own(self.authority.local())
        self._identified_until_s = time.monotonic() + RENEWED_AFTER_S

    def _has_trouble(self, edge: RemoteEdge) -> bool:
        standing = self._standings.get(edge.name)
        return not edge.is_silent and (standing is None or standing.trouble is not None)

    def _follow(self, edge: RemoteEdge, state: State, sheets: Sheets) -> None:
        """Bring one edge to what it is to serve, if it is not there."""
        before, told, report = self._standings.get(edge.name), edge.told, edge.report()
        if self._is_over or told is None or report is None:
            return
        rollout = state.course.rollout
        number = rollout.number if rollout and rollout.reaches(edge.name) else None
        is_drained = self._is_shut(edge.name, state.drained)
        if before and before.is_for(state, told.site, number, is_drained=is_drained):
            has_lost = report.version < before.version or (report.content is None and edge.tells_content)
            if edge.is_silent or not (before.trouble or has_lost):
                return  # who is silent has it left for it, or is heard of again
        known = report.content
        if before and not before.trouble and report.version >= before.version:
            known = before.content
        standing = Standing(
            of=state.version,
            course=state.course,
            site=told.site,
            version=max(state.version, report.version),  # it takes no older one; control's database may be older
            rollout=number,
            is_drained=is_drained,
        )
        try:
            forms = sheets.reached if number else sheets.early
            snapshot = _snapshot(state, forms, sheets.exits, edge.name, told.site, standing.version, is_drained)
            content = content_digest(snapshot)
            is_held = bool(state.course.holds) and content != content_digest(
                _snapshot(state, sheets.stored, sheets.exits, edge.name, told.site, standing.version, is_drained)
            )
            standing = replace(standing, content=content, is_held=is_held)
            may_be_left = is_held and self._plane.nodes is None  # else a leader before us could still replace it
            is_there = content == known and (is_held or report.version >= state.version)
            if is_there and (before or may_be_left) and not (before and before.trouble) and report.content:
                self._standings[edge.name] = replace(standing, version=report.version)
                return
            if content != known and known and standing.version == report.version:
                standing = replace(standing, version=report.version + 1)
                snapshot = _snapshot(state, forms, sheets.exits, edge.name, told.site, standing.version, is_drained)
            self._provide(edge, state)
            edge.deliver(snapshot, sheets.term)
        except EdgeRefused as error:
            standing = replace(standing, trouble=str(error), code=error.code)
        except (Unreadable, Problem) as error:
            standing = replace(standing, trouble=str(error), code="control_failed")
        if standing.trouble and (before is None or before.trouble != standing.trouble):
            log.warning("edge %s does not serve snapshot %d: %s", edge.name, standing.version, standing.trouble)
        elif not standing.trouble and (before is None or before.trouble):
            log.info("edge %s serves snapshot %d", edge.name, standing.version)
        self._standings[edge.name] = standing

    def _provide(self, edge: RemoteEdge, state: State) -> None:
        """Lists and databases first: a snapshot that names one which the edge does not have is refused."""
        if not state.firewalls and not state.asn:
            return
        named = b"".join(state.firewalls) + (state.asn or "").encode()
        with self._plane.reading() as connection:
            known = {found.digest for found in firewall_lists.every(connection)}
            known |= {found.digest for found in firewall_lists.databases(connection)}
            for digest in (digest for digest in known if digest.encode() in named):
                content = firewall_lists.content(connection, digest)
                if content and not edge.has_blob(digest):
                    edge.put_blob(*content, overlaps=True, private=True)


def _snapshot(
    state: State,
    forms: Iterable[Form],
    exits: courses.Exits,
    name: str,
    site: Site,
    version: int,
    is_drained: bool,
) -> bytes:
    """All applications that have an address there, at that edge's addresses; of one that is drained, none.

    And those whose flows other edges hand to it, drained or not: what it has goes on, and no other edge hands it more.
    """
    addresses, listen, encoded = () if is_drained else site.addresses(), site.overlay_address(), {}
    for form in forms:
        id_, paths = form.application.id, form.application.extension.paths
        if own := form.application.edge_addresses(addresses):
            is_last = bool(listen) and courses.ends_at(exits, name, id_)
            is_smart = bool(listen) and is_steered(form.application, state.smart_zones)
            there = at_addresses(form.encoded, own)
            encoded[id_] = on_paths(there, paths, name, is_last=is_last, is_steered=is_smart)
    others = courses.handed_over(exits, name, encoded, state.smart_zones) if listen else ()
    settings = replace(site.terms(), mitigation=state.mitigates)
    overlay = encode_overlay(name, listen, state.peers) if listen else None
    return encode_snapshot(version, settings, (*encoded.values(), *others), state.firewalls, state.asn, overlay)
