"""Control, API and their order of stopping, around an edge that serves already.

Nothing here can take the edge down: what fails is told by the API and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from causeway.api.server import build
from causeway.control import access_rules, zones
from causeway.control.attacks import Chronicle
from causeway.control.nodes import Nodes
from causeway.control.plane import Plane
from causeway.control.routes import Routing
from causeway.control.state import Site
from causeway.control.tokens import Keyring
from causeway.edge.agent import Agent
from causeway.model.problem import Problem
from causeway.model.snapshot import socket_text
from causeway.premises import edge_terms, name_server_addresses, origin_policy, public_addresses
from causeway.serving import Serving
from causeway.settings import Settings
from causeway.store.database import Database, StoreError
from causeway.supervise.line import Line

if TYPE_CHECKING:
    from causeway.control.fleet import Fleet
    from causeway.control.names import Directory
    from causeway.edge.name_server import NameServer

log = logging.getLogger("causeway")

_NAMES_S = 1.0  # until a drained edge is out of the answers
_AGAIN_S = 1.0  # between attempts to bring control up, and looks for rules whose time has passed


def site(settings: Settings, api_port: int) -> Site:
    overlay = socket_text(*settings.overlay) if settings.overlay else ""
    return Site(settings.edge_addresses, edge_terms(settings, api_port), origin_policy(settings, api_port), overlay)


def _fleet(settings: Settings, plane: Plane, agent: Agent) -> Fleet | None:
    told = settings.exchange
    if told is None:
        return None
    from causeway.control.enrolment import Registrar  # these take a moment to import, and most machines are alone
    from causeway.control.fleet import Fleet
    from causeway.exchange.authority import Authority
    from causeway.exchange.identity import NoIdentity
    from causeway.exchange.link import Where
    from causeway.exchange.nats_control import NatsControl

    if not told.certifies:
        where = Where(told.url, told.token, told.ca)
        return Fleet(
            plane,
            lambda on_change: NatsControl(where, on_change, term=lambda: plane.term),
            bake_s=settings.rollout_bake_s,
        )
    try:
        authority = Authority(settings.data_dir / "exchange", told.url)
    except (OSError, NoIdentity) as error:  # this machine's edge serves all the same
        log.error("there are no edges of other machines until this is mended and control started again: %s", error)
        return None
    where, registrar = Where(told.url, identity=authority.control), Registrar(plane, authority)
    return Fleet(
        plane,
        lambda on_change: NatsControl(where, on_change, registrar, lambda: plane.term),
        authority,
        agent.identify,
        bake_s=settings.rollout_bake_s,
    )


def _directory(settings: Settings, plane: Plane, server: NameServer) -> Directory:
    from causeway.control.names import Directory
    from causeway.model.names import EdgeSeen, Terms

    assert settings.dns
    terms = Terms(settings.dns.ttl_s, settings.dns.names, name_server_addresses(settings))
    own = EdgeSeen(settings.edge_addresses, public_addresses(settings), settings.location)
    return Directory(plane, server, terms, own, settings.data_dir / "edges-seen.json")


class House(Serving):
    """The parts of this process, and the order in which they stop."""

    def __init__(
        self,
        settings: Settings,
        plane: Plane,
        keyring: Keyring,
        agent: Agent,
        line: Line,
        name_server: NameServer | None = None,
    ) -> None:
        super().__init__(settings, agent, line)
        self._plane, self._keyring, self._chronicle = plane, keyring, Chronicle()
        self._fleet = _fleet(settings, plane, agent)
        if self._fleet:
            plane.fleet = self._fleet
            self._fleet.linger_s = settings.dns.ttl_s + _NAMES_S if settings.dns else 0.0
            if settings.overlay or settings.control:
                plane.routing = Routing(plane)
        self._name_server = name_server
        self._names = plane.directory = _directory(settings, plane, name_server) if name_server else None

    def app(self, stopping: asyncio.Event) -> Any:
        return build(self._plane, self._keyring, stopping)

    def take_no_more(self, why: str) -> None:
        self._plane.unavailable = why
        if self._plane.nodes:
            self._plane.nodes.stop()
        if self._names:
            self._names.stop()
        if self._plane.routing:
            self._plane.routing.stop()
        if self._fleet:
            self._fleet.stop()

    def hand_on(self) -> None:
        """Reports of this process stay in it, and its control has stopped."""
        if self._name_server:
            self._name_server.stop()  # that of the next process answers already

    @property
    def trouble(self) -> str | None:
        return self._plane.unavailable

    def open_control(self) -> None:
        """Bring control up; if that fails, the edge goes on with what it has and the API says why."""
        if self._stops:
            return
        try:
            if self._plane.database is None:
                told = self._settings.control
                shared = told.database if told else None
                self._take_up(Database.open(shared or self._settings.data_dir / "causeway.sqlite3"))
                if self._fleet:
                    self._fleet.start()
                if self._plane.nodes:
                    self._plane.nodes.start()
                if self._plane.routing:
                    self._plane.routing.start()
                if self._names:
                    self._names.start()
            self._plane.settle()
        except Exception as error:  # whatever it is, the edge serves on
            why = f"control is not available: {error}. The edge serves its last good snapshot"
            if why != self._plane.unavailable:
                log.error("%s", why, exc_info=not isinstance(error, StoreError | Problem | OSError))
            self._plane.unavailable = why

    def _take_up(self, database: Database) -> None:
        try:
            self._plane.nodes = self._nodes(database)
            self._read(database, is_leading=self._plane.nodes is None)
        except BaseException:
            self._plane.database = self._plane.nodes = None
            database.close()
            raise
        log.info("control is up, %d application(s)", len(self._plane.pieces))

    def _read(self, database: Database, *, is_leading: bool) -> None:
        self._plane.open(database, is_leading=is_leading)
        if is_leading:
            zones.ensure_account(self._plane)
        self._keyring.load(self._plane)

    def _nodes(self, database: Database) -> Nodes | None:
        told, fleet = self._settings.control, self._fleet
        if told is None or told.database is None:
            return None
        if fleet is None:
            raise StoreError("this node has no way to edges, and takes no part: see what was said of it before")

        def take_up(is_leading: bool) -> None:
            self._read(database, is_leading=is_leading)
            if is_leading:
                self._chronicle = Chronicle()
                fleet.begin_term()

        network = fleet.authority.fingerprint if fleet.authority else ""
        return Nodes(database, told.node, told.api_url, fleet.exchange, take_up, network)

    def is_new(self) -> bool:
        with suppress(Problem):
            return self._plane.leads and zones.count(self._plane) == 0
        return False

    def close(self) -> None:
        if self._plane.nodes:
            self._plane.nodes.join()
        if self._plane.database:
            self._plane.database.close()
            self._plane.database = None

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN_S)
            if self._agent.is_stopping:
                continue
            if self._plane.unavailable or self._plane.out_of_step:
                await asyncio.to_thread(self.open_control)
            if self._plane.leads:
                try:
                    await asyncio.to_thread(access_rules.expire, self._plane)
                except Problem as error:
                    log.error("rules whose time has passed are still in force: %s", error.message)
                await asyncio.to_thread(self._chronicle.keep, self._plane)
            if self._name_server:
                self._name_server.start()
