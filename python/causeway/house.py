"""Control, API and their order of stopping, around an edge that serves already.

Nothing here can take the edge down: what fails is told by the API and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from causeway import __version__
from causeway.api.server import build
from causeway.control import access_rules, zones
from causeway.control.attacks import Chronicle
from causeway.control.plane import Plane, Site
from causeway.control.tokens import Keyring
from causeway.edge.agent import Agent
from causeway.edge.engine import HAND_OVER_S
from causeway.exchange.bus import EdgeRefused
from causeway.model.origin_policy import OriginPolicy
from causeway.model.problem import Problem
from causeway.model.snapshot import Settings as SnapshotSettings
from causeway.premises import is_local
from causeway.settings import Settings
from causeway.store.database import Database, StoreError
from causeway.supervise.line import Line

log = logging.getLogger("causeway")

_AGAIN_S = 1.0  # between attempts to bring control up, and looks for rules whose time has passed


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

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._is_ending = asyncio.Event()

    def end(self) -> None:
        """Take no more requests, and answer those that are being answered."""
        self.should_exit = True
        self._is_ending.set()

    async def main_loop(self) -> None:
        """Once a second, for the date in answers: ten times, as uvicorn does, is a third of what an idle edge costs."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_ending.wait(), 1.0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class House:
    """The parts of this process, and the order in which they stop."""

    def __init__(self, settings: Settings, plane: Plane, keyring: Keyring, agent: Agent, line: Line) -> None:
        self._settings, self._plane, self._keyring, self._agent = settings, plane, keyring, agent
        self._line = line
        self._stops: list[asyncio.Task[None]] = []
        self._chronicle = Chronicle()

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
            self._plane.database = None

    async def serve(self, listener: socket.socket) -> None:
        """Serve the API until a signal has drained the edge, or until another process serves."""
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
        server, loop = _Server(config, self._say_serving), asyncio.get_running_loop()
        links: list[socket.socket] = []

        def on_stop(drain_s: float = self._settings.drain_s) -> None:
            drain_s = 0.0 if self._stops else drain_s  # a second signal drains no longer
            self._stops.append(asyncio.ensure_future(self._stop(server, stopping, drain_s)))

        def end_api(link: socket.socket) -> None:
            links.append(link)
            config.timeout_graceful_shutdown = 1  # the next process waits for the database
            stopping.set()
            server.end()

        def on_words() -> None:
            words = self._line.hear()
            if words is None:
                loop.remove_reader(self._line.fileno())  # and the kernel ends us, too: see die_with
            for word in words or ():
                if word.name == "drain":
                    on_stop(float(word.told.get("drain_s", 0)))
                elif word.name == "hand_over" and word.link:
                    handing.append(asyncio.ensure_future(self._hand_over(word.link, end_api)))

        handing: list[asyncio.Task[None]] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is for the supervisor
        loop.add_reader(self._line.fileno(), on_words)
        keeper = asyncio.ensure_future(self._keep_control_up())
        await server.serve(sockets=[listener])
        keeper.cancel()
        if links:
            self.close()
            [link] = links
            link.close()  # the other process takes this as leave to open the database
            await self._drain(on_stop)
        await asyncio.gather(*self._stops)

    def _say_serving(self) -> None:
        self._line.say("serving", version=__version__, control=self._plane.unavailable)

    async def _hand_over(self, link: socket.socket, end_api: Callable[[socket.socket], None]) -> None:
        """Let another process have the traffic, then the API and the database."""
        began_s = time.monotonic()
        try:
            moved = await asyncio.to_thread(self._agent.hand_over, link.fileno(), HAND_OVER_S)
        except EdgeRefused as error:
            link.close()
            self._line.say("kept", why=str(error))
            log.error("handing over failed (%s): %s; this process serves on", error.code, error)
            return
        self._plane.unavailable = "a new causeway process takes over: try again in a moment"
        self._line.say("handed_over")
        log.info("handed over in %.0f ms, %d UDP session(s) with it", (time.monotonic() - began_s) * 1000, moved)
        end_api(link)

    async def _drain(self, on_stop: Callable[[], None]) -> None:
        """Let the connections end that stayed here; say what became of them, since the API of this process is gone."""
        left = await asyncio.to_thread(self._agent.open_flows)
        log.info("process %d drains %d connection(s) for up to %g s", os.getpid(), left, self._settings.drain_s)
        if not self._stops:
            on_stop()

    async def _stop(self, server: _Server, stopping: asyncio.Event, drain_s: float) -> None:
        """Drain, then end the API."""
        self._plane.unavailable = "causeway is stopping: the edge takes no changes any more"
        log.info("draining for up to %g s; asked again, it cuts what is left", drain_s)
        try:
            cut = await asyncio.to_thread(self._agent.stop, drain_s)
            log.info("the edge has stopped, %d flow(s) were cut", cut)
        finally:
            stopping.set()
            server.end()

    async def _keep_control_up(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN_S)
            if self._agent.is_stopping:
                continue
            if self._plane.unavailable or self._plane.out_of_step:
                await asyncio.to_thread(self.open_control)
            try:
                await asyncio.to_thread(access_rules.expire, self._plane)
            except Problem as error:
                log.error("rules whose time has passed are still in force: %s", error.message)
            await asyncio.to_thread(self._chronicle.keep, self._plane)
