"""What every serving process does: serve HTTP, hear its supervisor, drain, hand over, stop in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from causeway import __version__
from causeway.edge.agent import Agent
from causeway.edge.engine import HAND_OVER_S
from causeway.exchange.bus import EdgeRefused
from causeway.settings import Settings
from causeway.supervise.line import Line

log = logging.getLogger("causeway")


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


class Serving(ABC):
    """The process around an agent. Those who come from it say what is served, and what else goes on meanwhile."""

    def __init__(self, settings: Settings, agent: Agent, line: Line) -> None:
        self._settings, self._agent, self._line = settings, agent, line
        self._stops: list[asyncio.Task[None]] = []

    @abstractmethod
    def app(self, stopping: asyncio.Event) -> Any:
        """The ASGI application; `stopping` is set when answers that never end have to."""

    @abstractmethod
    async def keep(self) -> None:
        """What goes on for as long as HTTP is served."""

    @abstractmethod
    def take_no_more(self, why: str) -> None:
        """Refuse changes from now on."""

    @abstractmethod
    def hand_on(self) -> None:
        """Say nothing more: another process speaks for this edge."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what the next process needs."""

    @property
    @abstractmethod
    def trouble(self) -> str | None:
        """Why it serves less than it should, for who starts it."""

    async def serve(self, listener: socket.socket) -> None:
        """Serve the API until a signal has drained the edge, or until another process serves."""
        stopping = asyncio.Event()
        config = uvicorn.Config(
            self.app(stopping),
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
        keeper = asyncio.ensure_future(self.keep())
        await server.serve(sockets=[listener])
        keeper.cancel()
        if links:
            self.close()
            [link] = links
            link.close()  # the other process takes this as leave to open the database
            await self._drain(on_stop)
        await asyncio.gather(*self._stops)

    def _say_serving(self) -> None:
        self._line.say("serving", version=__version__, control=self.trouble)

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
        self.take_no_more("a new causeway process takes over: try again in a moment")
        self.hand_on()
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
        self.take_no_more("causeway is stopping: the edge takes no changes any more")
        log.info("draining for up to %g s; asked again, it cuts what is left", drain_s)
        try:
            cut = await asyncio.to_thread(self._agent.stop, drain_s)
            log.info("the edge has stopped, %d flow(s) were cut", cut)
        finally:
            stopping.set()
            server.end()
