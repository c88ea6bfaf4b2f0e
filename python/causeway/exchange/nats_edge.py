"""The exchange as an edge of another machine sees it: snapshots come over NATS, reports go.

The newest snapshot is in a key-value bucket, so that an edge which was away finds it when it is back. That there is a
new one is heard by a plain subscription: JetStream has no consumer of ours that could be left over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import KeyNotFoundError, NotFoundError

from causeway.exchange import words
from causeway.exchange.bus import Edge, EdgeRefused
from causeway.exchange.link import Link, Where
from causeway.model.report import ApplyReport, Report

log = logging.getLogger(__name__)

_LOOK_S = 10.0  # a word may be lost: so often it is asked whether there is a newer snapshot
_MOST_BLOB_BYTES = 1 << 30


class NatsEdge:
    """The edge's side of the bus (see `bus.EdgeSide`), for the edge that is called `name`."""

    def __init__(self, where: Where, name: str, site: words.Site) -> None:
        self._name, self._site = name, site
        self._link = Link(where, f"edge-{name}", self._on_connected)
        self._edge: Edge | None = None
        self._is_listening = False
        self._taking = asyncio.Lock()
        self._revision = 0  # of the snapshot that was judged last
        self._outcome: ApplyReport | EdgeRefused | None = None
        self._listened_until_s = 0.0

    def attach(self, edge: Edge) -> None:
        self._edge = edge
        self._link.start()

    def stop(self) -> None:
        self._link.stop()

    @property
    def is_connected(self) -> bool:
        return self._link.is_up

    @property
    def has_readers(self) -> bool:
        return time.monotonic() < self._listened_until_s

    def publish(self, report: Report) -> None:
        if self._link.is_up:
            self._link.begin(self._tell(report))

    async def _tell(self, report: Report) -> None:
        packed = words.pack(self._told(report))
        if len(packed) > self._link.most_bytes:  # rather no events than no report
            log.warning("%d bytes of events are more than the exchange takes: not told", len(bytes(report.events)))
            packed = words.pack(self._told(msgspec.structs.replace(report, events=msgspec.Raw(b"[]"))))
        if len(packed) > self._link.most_bytes:
            log.error("the report of this edge has %d bytes, more than the exchange takes: not told", len(packed))
            return
        await self._link.client().publish(words.report_subject(self._name), packed)

    def _told(self, report: Report) -> words.Told:
        return words.Told(self._site, msgspec.Raw(msgspec.json.encode(report)))

    # ---- in the thread of the link ----

    async def _on_connected(self, client: Client) -> None:
        if not self._is_listening:  # later ones find their subscriptions renewed
            await client.subscribe(words.ask_subject(self._name), cb=self._on_ask)
            await client.subscribe(words.snapshot_subject(self._name), cb=self._on_new_snapshot)
            self._link.begin(self._keep_looking())
            self._is_listening = True
        await self._catch_up()
        await self._in_thread(self._observe)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._link.is_up:
                try:
                    await self._catch_up()
                except Exception as error:  # whatever it is, the next look may go well
                    log.warning("exchange: %s: %s", type(error).__name__, error)

    async def _on_new_snapshot(self, _: Msg) -> None:
        self._link.begin(self._catch_up())

    async def _catch_up(self, wanted: int = 0) -> None:
        """Take the newest snapshot, if it is another one than was judged last; `wanted`: the revision that will do."""
        async with self._taking:
            if wanted and self._revision == wanted:
                return
            try:
                entry = await (await self._link.bucket(words.SNAPSHOTS)).get(self._name)
            except (NotFoundError, KeyNotFoundError):
                return  # nobody has made one yet
            if not entry.revision or entry.revision == self._revision or entry.value is None:
                return
            try:
                snapshot = words.unpack(entry.value, words.MOST_SNAPSHOT_BYTES)
                self._outcome = await self._in_thread(partial(self._present().apply, snapshot))
            except words.Unreadable as error:
                self._outcome = EdgeRefused("snapshot_unreadable", f"the snapshot cannot be read: {error}")
            except EdgeRefused as error:
                self._outcome = error
            self._revision = entry.revision
            if isinstance(self._outcome, EdgeRefused):
                log.error("snapshot %d was refused (%s): %s", entry.revision, self._outcome.code, self._outcome)
            await self._in_thread(self._observe)  # control hears of it in the next report, which is this one

    async def _on_ask(self, message: Msg) -> None:
        self._link.begin(self._answer(message))

    async def _answer(self, message: Msg) -> None:
        try:
            found = await self._find(words.read_ask(message.data))
            answer = words.Answer(value=msgspec.Raw(msgspec.json.encode(found)))
        except words.Unreadable as error:
            answer = words.Answer(code="question_unknown", message=f"this edge does not know what is asked: {error}")
        except EdgeRefused as error:
            answer = words.Answer(code=error.code, message=str(error))
        except Exception as error:  # whatever it is, who asks must hear of it
            log.exception("a question of control could not be answered")
            answer = words.Answer(code="edge_failed", message=f"{type(error).__name__}: {error}")
        packed = words.pack(answer)
        if len(packed) > self._link.most_bytes:
            packed = words.pack(words.Answer(code="answer_too_large", message=f"it has {len(packed)} bytes"))
        if message.reply:
            await message.respond(packed)

    async def _find(self, ask: words.Ask) -> object:
        edge = self._present()
        match ask:
            case words.Apply(revision):
                return await self._applied(revision)
            case words.Observe():
                return await self._in_thread(edge.observe)
            case words.Listen(lease_s):
                self._listened_until_s = time.monotonic() + min(lease_s, 60.0)
                edge.wake()
                return None
            case words.PutBlob(stored, kind, overlaps, private):
                content = await self._blob(stored)
                return await self._in_thread(partial(edge.put_blob, kind, content, overlaps=overlaps, private=private))
            case words.HasBlob(digest):
                return await self._in_thread(partial(edge.has_blob, digest))
            case words.AllRuleHits():
                return await self._in_thread(edge.rule_hits)
            case words.Explain(application, client, port):
                return await self._in_thread(partial(edge.explain, application, client, port))

    async def _applied(self, revision: int) -> ApplyReport:
        await self._catch_up(revision)
        if self._revision < revision:  # of a store that was lost, and begins at 1, is none here any more
            raise EdgeRefused("snapshot_missing", f"the exchange has no snapshot of revision {revision} for this edge")
        if self._outcome is None or isinstance(self._outcome, EdgeRefused):
            raise self._outcome or EdgeRefused("snapshot_missing", "no snapshot was judged yet")
        return self._outcome

    async def _blob(self, stored: str) -> bytes:
        store = await self._link.client().jetstream().object_store(words.BLOBS)
        try:
            info = await store.get_info(stored)
            if (info.size or 0) > _MOST_BLOB_BYTES:
                raise EdgeRefused("blob_too_large", f"{stored} has {info.size} bytes")
            content = (await store.get(stored)).data
        except NotFoundError as error:
            raise EdgeRefused("blob_missing", f"the exchange has nothing that is called {stored}") from error
        return content or b""

    def _observe(self) -> None:
        if self._edge:
            self._edge.observe()

    def _present(self) -> Edge:
        if self._edge is None:
            raise EdgeRefused("edge_missing", "the edge is starting")
        return self._edge

    async def _in_thread(self, act: Callable[[], Any]) -> Any:
        """The engine takes its time, and others are heard meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(None, act)
