"""One connection to NATS, in a thread of its own, kept up for ever: who uses it neither waits nor fails with it.

Written for the feature set of nats-server 2.9, with JetStream switched on.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import logging
import random
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from nats.js.kv import KeyValue

from causeway.exchange.identity import Identity

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 3.0  # between tries to connect, of which not all come at once
_LOOK_S = 1.0  # whether the connection is still one, whatever the library says of it or does not
_PING_S = 5  # twice unanswered, the connection is taken for dead
_STOP_S = 2.0
_LEAVE_S = 1.0  # most answers take a few ms; one that takes longer is asked for again
ROOM_BYTES = 4096  # of a message, for its subject and head


class Unreachable(Exception):
    """There is no connection now, or no answer in time."""


@dataclass(frozen=True, slots=True)
class Where:
    """The server, and how to be let in: with an identity, or by what somebody's own nats-server asks for.

    `identity` is asked for each new connection. With tls:// the server is verified against that identity's authority,
    else against `ca`, else the machine's own.
    """

    url: str
    token: str | None = None
    ca: Path | None = None
    identity: Callable[[], Identity] | None = None

    def tls(self) -> ssl.SSLContext | None:
        if urlsplit(self.url).scheme != "tls":
            return None
        return ssl.create_default_context(cafile=str(self.ca) if self.ca else None)


class NatsClient(Client):
    """nats-py goes on in plain text where the server does not ask for TLS: anybody on the way could say so for it.

    Of the library's own, and kept by a test: the first words of a server pass here, before any of ours are sent.
    """

    def __init__(self, where: Where) -> None:
        super().__init__()
        self.identity = where.identity() if where.identity else None
        self._tls = self.identity.tls() if self.identity else where.tls()
        self._where = where

    async def open(self, **told: Any) -> None:
        """Raises what nats-py does."""
        if self.identity:
            told |= {
                "user_jwt_cb": self.identity.jwt.encode,
                "signature_cb": self._sign,
                "inbox_prefix": self.identity.inbox,
            }
            self._auth_configured = True  # which the library concludes from a file of credentials alone
        await self.connect(self._where.url, token=self._where.token, tls=self._tls, connect_timeout=5, **told)

    def _sign(self, nonce: str) -> bytes:
        assert self.identity
        return base64.b64encode(self.identity.private_key().sign(nonce.encode()))

    async def leave(self) -> None:
        """Another one is in use: be asked nothing more, answer what was asked, and end."""
        try:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                asked = [one for one in self._subs.values() if not one.subject.startswith(self._inbox_prefix.decode())]
                for subscription in asked:
                    await subscription.unsubscribe()
                await self.flush()
                await asyncio.sleep(_LEAVE_S if asked else 0)
            await self.end()
        finally:
            self.abandon()

    async def end(self) -> None:
        self._fail_questions()
        try:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await self.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave no socket open, and nobody who waits, whatever the library thinks of it."""
        self._fail_questions()
        for name in ("_io_writer", "_bare_io_writer"):
            if writer := getattr(self._transport, name, None):
                writer.transport.abort()

    def _fail_questions(self) -> None:
        for answer in list(self._resp_map.values()):
            if not answer.done():
                answer.set_exception(ConnectionClosedError())

    @property
    def hint(self) -> str:
        """What there is to say of a connection that does not come about."""
        if self.identity is None or not self.identity.has_expired:
            return ""
        return f" (the certificate of {self.identity.name} has expired: causeway invite {self.identity.name})"

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self._tls and initial_connection and not info.get("tls_required"):
            raise NatsError("the server does not offer TLS, and a tls:// URL was given: nothing was said to it")
        await super()._process_info(info, initial_connection)


class Link:
    """`started` is called in the thread of the link, each time that a connection is there: the first and any later.

    It may be another client than before, which has no subscriptions yet.
    """

    def __init__(self, where: Where, name: str, started: Callable[[NatsClient], Awaitable[None]]) -> None:
        self._where, self._name, self._started = where, name, started
        self._client: NatsClient | None = None
        self._is_lost = asyncio.Event()  # for good: the server ended it, and the library does not come back
        self._loop: asyncio.AbstractEventLoop | None = None  # once started
        self._thread = threading.Thread(target=self._run, name=f"exchange-{name}", daemon=True)
        self._tasks: set[asyncio.Future[Any]] = set()
        self._is_over = False
        self._why = "it is being made"
        self._is_told = False  # that there is none
        self._buckets: dict[str, KeyValue] = {}
        self._newest: NatsClient | None = None  # that was tried

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    @property
    def is_up(self) -> bool:
        return self._client is not None and self._client.is_connected

    @property
    def most_bytes(self) -> int:
        """Of one message."""
        return (self._client.max_payload if self._client else 1 << 20) - ROOM_BYTES

    async def bucket(self, name: str) -> KeyValue:
        """Looked up once for each connection. Raises Unreachable, or a NotFoundError of nats-py."""
        client = self.client()
        if name not in self._buckets:
            self._buckets[name] = await client.jetstream().key_value(name)
        return self._buckets[name]

    def client(self) -> NatsClient:
        """Raises Unreachable."""
        if self._client is None or not self._client.is_connected:
            raise Unreachable(f"there is no connection to {self._where.url}: {self._why}")
        return self._client

    def wait(self, work: Coroutine[Any, Any, _T], within_s: float) -> _T:
        """Have it done in the link's thread, from any other.

        Raises:
            Unreachable: not within that time, or NATS says why not.
        """
        if self._is_over or self._loop is None:
            work.close()
            raise Unreachable("the connection has ended" if self._loop else "it was not asked to connect")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(within_s)
        except (TimeoutError, concurrent.futures.CancelledError) as error:
            future.cancel()
            raise Unreachable(
                "the connection has ended" if self._is_over else f"no answer within {within_s:g} s"
            ) from error
        except (NatsError, OSError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done some time, in the link's thread; a failure is logged."""
        loop = self._loop

        def start() -> None:
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._say_failure)

        try:
            if self._is_over or loop is None:
                raise RuntimeError
            loop.call_soon_threadsafe(start)
        except RuntimeError:  # it has ended, perhaps just now
            work.close()

    def _say_failure(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._is_over:
            log.warning("exchange: %s: %s", type(error).__name__, error)

    def stop(self) -> None:
        """End the connection and the thread; what waits for an answer hears that there is none."""
        if self._is_over or self._loop is None:
            return
        self._is_over = True
        closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        with contextlib.suppress(TimeoutError, concurrent.futures.CancelledError, NatsError, OSError):
            closing.result(_STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)

    async def _close(self) -> None:
        if self._client:
            with contextlib.suppress(NatsError, OSError):
                await self._client.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in (self._client, self._newest):
            if client:
                client.abandon()
        await asyncio.sleep(0)  # for sockets to be closed

    def _run(self) -> None:
        assert self._loop
        asyncio.set_event_loop(self._loop)
        self.begin(self._keep_up())
        self._loop.run_forever()
        self._loop.close()

    async def _keep_up(self) -> None:
        while not self._is_over:
            self._client = client = await self._connected()
            if client:
                await self._begin_with(client)
            while self._client and self._client.is_connected:  # which may be another one by now
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._is_lost.wait(), _LOOK_S)
                self._is_lost.clear()
            if self._client:
                self.begin(self._client.end())
                await asyncio.sleep(random.uniform(0, _FIRST_PAUSE_S))  # noqa: S311

    async def renew(self) -> None:
        """Go over to a connection of the identity as it is now; the one before ends when the new one is in use.

        Raises TimeoutError or what nats-py does, and nothing has changed.
        """
        client = await self._opened()
        before, self._client = self._client, client
        self._is_lost.set()  # look which one it is
        await self._begin_with(client)
        if before:
            await before.leave()

    async def _connected(self) -> NatsClient | None:
        pause_s = _FIRST_PAUSE_S
        while not self._is_over:
            try:
                return await self._opened()
            except Exception as error:  # whatever it is, the next try may go well
                self._note(f"{type(error).__name__}: {error}")
                await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return None

    async def _opened(self) -> NatsClient:
        client = NatsClient(self._where)

        async def on_lost() -> None:
            if client is self._client:
                self._note("it was lost")
                self._is_lost.set()

        async def on_error(error: Exception) -> None:
            if client in (self._client, self._newest):  # what one says that is leaving is of no use
                self._on_error(error)

        self._newest = client
        try:  # its own way to connect again keeps the identity that it had, and may hang on an old connection
            await client.open(
                name=self._name,
                allow_reconnect=False,
                ping_interval=_PING_S,
                error_cb=on_error,
                disconnected_cb=on_lost,
                closed_cb=on_lost,
            )
        except BaseException:
            await client.end()
            raise
        return client

    def _note(self, why: str) -> None:
        self._why = why + (self._newest.hint if self._newest else "")
        if not self._is_told and not self._is_over:
            log.warning("exchange: no connection to %s: %s; it is tried again", self._where.url, self._why)
            self._is_told = True

    def _on_error(self, error: Exception) -> None:
        if not self.is_up:
            self._note(f"{type(error).__name__}: {error}")
        elif not self._is_over:
            log.warning("exchange: %s: %s", type(error).__name__, error)

    async def _begin_with(self, client: NatsClient) -> None:
        """Begin anew; until that has worked out, for JetStream may come up later than its server."""
        self._why, self._is_told, self._buckets = "it has ended", False, {}
        log.info("exchange: connected to %s", self._where.url)
        last, pause_s = "", _FIRST_PAUSE_S
        while client is self._client and client.is_connected and not self._is_over:
            try:
                await self._started(client)
                return
            except Exception as error:  # whatever it is, the next try may go well
                if str(error) != last:
                    last = str(error)
                    log.warning("exchange: %s: %s; it is tried again", type(error).__name__, error or "no reason given")
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
