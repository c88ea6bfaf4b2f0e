"""Control, API and their order of stopping, around an edge that serves already.

Nothing here can take the edge down: what fails is told by the API and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from causeway.api.server import build
from causeway.control import zones
from causeway.control.plane import Plane, Site
from causeway.control.tokens import Keyring
from causeway.edge.agent import Agent
from causeway.model.origin_policy import OriginPolicy
from causeway.model.problem import Problem
from causeway.model.snapshot import Settings as SnapshotSettings
from causeway.premises import is_local
from causeway.settings import Settings
from causeway.store.database import Database, StoreError

log = logging.getLogger("causeway")

DRAIN_S = 30.0
_AGAIN_S = 2.0  # between attempts to bring control up


def site(settings: Settings, api_port: int) -> Site:
    own = ((settings.api_host, api_port),)
    policy = OriginPolicy(settings.allows_loopback, settings.denied, own, is_local)
    told = SnapshotSettings(
        origin_deny=policy.prefixes(),
        origin_deny_sockets=own,
        allow_loopback_origins=settings.allows_loopback,
        resolvers=settings.resolvers,
        source_addresses=settings.source_addresses,
    )
    return Site(settings.edge_addresses, told, policy)


class _Server(uvicorn.Server):
    """Signals are ours: they drain flows first, and only then end the API."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class House:
    """The parts of this process, and the order in which they stop."""

    def __init__(self, settings: Settings, plane: Plane, keyring: Keyring, agent: Agent) -> None:
        self._settings, self._plane, self._keyring, self._agent = settings, plane, keyring, agent
        self._stops: list[asyncio.Task[None]] = []

    def open_control(self) -> None:
        """Bring control up; if that fails, the edge goes on with what it has and the API says why."""
        if self._stops:
            return
        try:
            if self._plane.database is None:
                self._take_up(Database.open(self._settings.data_dir / "causeway.sqlite3"))
            self._plane.settle()
        except Exception as error:  # whatever it is, the edge serves on
            why = f"control is not available: {error}. The edge serves its last good snapshot"
            if why != self._plane.unavailable:
                log.error("%s", why, exc_info=not isinstance(error, StoreError | Problem | OSError))
            self._plane.unavailable = why

    def _take_up(self, database: Database) -> None:
        try:
            self._plane.open(database)
            zones.ensure_account(self._plane)
            self._keyring.load(self._plane)
        except BaseException:
            self._plane.database = None
            database.close()
            raise
        log.info("control is up, %d application(s)", len(self._plane.pieces))

    def is_new(self) -> bool:
        with suppress(Problem):
            return zones.count(self._plane) == 0
        return False

    def close(self) -> None:
        if self._plane.database:
            self._plane.database.close()

    async def serve(self, listener: socket.socket) -> None:
        """Serve the API until a signal has drained the edge."""
        stopping = asyncio.Event()
        config = uvicorn.Config(
            build(self._plane, self._keyring, stopping),
            access_log=False,
            log_config=None,
            log_level="warning",
            proxy_headers=False,  # nobody's word for who a client is
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server, loop = _Server(config), asyncio.get_running_loop()

        def on_stop() -> None:
            drain_s = 0.0 if self._stops else DRAIN_S  # a second signal drains no longer
            self._stops.append(asyncio.ensure_future(self._stop(server, stopping, drain_s)))

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_stop)
        loop.add_signal_handler(signal.SIGHUP, _on_hangup)
        keeper = asyncio.ensure_future(self._keep_control_up())
        await server.serve(sockets=[listener])
        keeper.cancel()
        await asyncio.gather(*self._stops)

    async def _stop(self, server: uvicorn.Server, stopping: asyncio.Event, drain_s: float) -> None:
        """Drain, then end the API."""
        self._plane.unavailable = "causeway is stopping: the edge takes no changes any more"
        log.info("draining for up to %g s; the same signal again cuts what is left", drain_s)
        try:
            cut = await asyncio.to_thread(self._agent.stop, drain_s)
            log.info("the edge has stopped, %d flow(s) were cut", cut)
        finally:
            stopping.set()
            server.should_exit = True

    async def _keep_control_up(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN_S)
            if self._plane.unavailable or self._plane.out_of_step:
                await asyncio.to_thread(self.open_control)


def _on_hangup() -> None:
    log.warning("SIGHUP: restarting without losing connections is not built yet; nothing was changed")
