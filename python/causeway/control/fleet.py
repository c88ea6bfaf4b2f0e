"""Edges of other machines follow: after each change that this machine's edge serves, each gets a snapshot of its own.

Nobody waits for them. One that is away takes the newest snapshot when it is back, and serves its last good one until
then. What an edge cannot serve (it has none of an application's addresses) is told in `causeway status`.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from causeway.control.plane import Plane, State
from causeway.exchange.authority import Authority
from causeway.exchange.bus import EdgeRefused
from causeway.exchange.nats_control import NatsControl, RemoteEdge
from causeway.exchange.words import Site, Unreadable
from causeway.model.application import Address
from causeway.model.problem import Problem
from causeway.model.snapshot import at_addresses, encode_snapshot
from causeway.store import edge_certificates, firewall_lists

log = logging.getLogger(__name__)

_AT_ONCE = 16  # deliveries
_AGAIN_S = 5.0  # to those that did not take theirs


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of the newest snapshot for an edge: `of` is the plane's version that it was made of."""

    of: int
    site: Site
    version: int
    is_drained: bool = False
    trouble: str | None = None  # why the edge does not serve it, as the edge or the exchange say


class Fleet:
    """Those edges, and a thread that keeps them at what the plane says."""

    def __init__(
        self,
        plane: Plane,
        connect: Callable[[Callable[[], None]], NatsControl],
        authority: Authority | None = None,
    ) -> None:
        """`authority`: where edges are certified here, who does it."""
        self._plane, self.authority = plane, authority
        self._woken = threading.Event()
        self._is_over = False
        self._standings: dict[str, Standing] = {}
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
            self.on_forget(name)

    def _run(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fleet") as pool:
            while True:
                self._woken.clear()
                if self._is_over:
                    return
                edges = self.exchange.edges()
                try:
                    if self._plane.database is not None:
                        self._learn_addresses(edges)
                        state = self._plane.state()
                        list(pool.map(lambda edge: self._follow(edge, state), edges))  # noqa: B023 - all are waited for
                except Exception:  # whatever it is, the next round may go well
                    log.exception("edges of other machines could not be brought to the newest state")
                again_s = [_AGAIN_S] if any(self._has_trouble(edge) for edge in edges) else []
                self._woken.wait(min(again_s + self._until_shut_s(), default=None))

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

    def _has_trouble(self, edge: RemoteEdge) -> bool:
        standing = self._standings.get(edge.name)
        return not edge.is_silent and (standing is None or standing.trouble is not None)

    def _follow(self, edge: RemoteEdge, state: State) -> None:
        """Bring one edge to what the plane says, if it is not there."""
        before, told, report = self._standings.get(edge.name), edge.told, edge.report()
        if self._is_over or told is None or report is None:
            return
        is_drained = self._is_shut(edge.name, state.drained)
        if before and (before.of, before.site, before.is_drained) == (state.version, told.site, is_drained):
            is_there = before.trouble is None and report.version >= before.version
            if is_there or edge.is_silent:  # who is silent has it left for it, or is heard of again
                return
        version, trouble = max(state.version, report.version), None  # it takes no older one; control's database may be
        try:
            self._provide(edge, state)
            edge.deliver(_snapshot(state, told.site, version, is_drained))
        except (EdgeRefused, Unreadable, Problem) as error:
            trouble = str(error)
        if trouble and (before is None or before.trouble != trouble):
            log.warning("edge %s does not serve snapshot %d: %s", edge.name, version, trouble)
        elif not trouble and (before is None or before.trouble):
            log.info("edge %s serves snapshot %d", edge.name, version)
        self._standings[edge.name] = Standing(state.version, told.site, version, is_drained, trouble)

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


def _snapshot(state: State, site: Site, version: int, is_drained: bool) -> bytes:
    """All applications that have an address there, at that edge's addresses; of one that is drained, none."""
    addresses, encoded = site.addresses(), []
    for piece in state.pieces:
        own = piece.application.edge_addresses(addresses)
        if own and not piece.unserved and not is_drained:
            encoded.append(at_addresses(piece.encoded, own))
    settings = replace(site.terms(), mitigation=state.mitigates)
    return encode_snapshot(version, settings, encoded, state.firewalls, state.asn)
