"""The exchange as an edge of another machine sees it: snapshots come over NATS, reports go.

The newest snapshot is in a key-value bucket, so that an edge which was away finds it when it is back. That there is a
new one is heard by a plain subscription: JetStream has no consumer of ours that could be left over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.errors import NotFoundError

from causeway.exchange import words
from causeway.exchange.bus import LEAVING, Edge, EdgeRefused, Names
from causeway.exchange.link import Link, NatsClient, Unreachable, Where
from causeway.exchange.membership import Membership, Refused
from causeway.model.report import ApplyReport, Report

log = logging.getLogger(__name__)

_LOOK_S = 10.0  # a word may be lost: so often it is asked whether there is a newer snapshot
_MOST_BLOB_BYTES = 1 << 30
_CHUNK_S = 10.0


class NatsEdge:
    """The edge's side of the bus (see `bus.EdgeSide`), for the edge that is called `name`."""

    def __init__(
        self,
        where: Where,
        name: str,
        site: words.Site,
        membership: Membership | None = None,
        names: Names | None = None,
    ) -> None:
        self.name, self.url = name, where.url
        self._site, self._membership, self._names = site, membership, names
        self._link = Link(where, f"edge-{name}", self._on_connected)
        self._edge: Edge | None = None
        self._listens: NatsClient | None = None  # which one has our subscriptions
        self._taking = asyncio.Lock()
        self._revision = 0  # of the snapshot that was judged last
        self._term = 0  # the latest of control whose snapshot there was
        self._outcome: ApplyReport | EdgeRefused | None = None
        self._listened_until_s = 0.0

    def attach(self, edge: Edge) -> None:
        self._edge = edge
        self._identify()
        self._link.start()

    def _identify(self) -> None:
        """Be to other edges what control has certified."""
        member = self._membership
        if member is None or member.is_invited or self._edge is None:
            return
        try:
            self._edge.identify(member.identity().to_edges())
        except EdgeRefused as error:
            log.error("no flows go from and to other edges: %s", error)

    def stop(self) -> None:
        self._link.stop()

    @property
    def is_connected(self) -> bool:
        return self._link.is_up

    @property
    def refusal(self) -> str | None:
        """Why control does not want this edge."""
        return self._membership.refusal if self._membership else None

    @property
    def has_readers(self) -> bool:
        return time.monotonic() < self._listened_until_s

    def publish(self, report: Report) -> None:
        if self._link.is_up:
            self._link.begin(self._tell(report))

    async def _tell(self, report: Report) -> None:
        client = self._link.client()
        if client is not self._listens:  # an invitation does not let it speak as an edge
            return
        packed = words.pack(self._told(report))
        if len(packed) > self._link.most_bytes:  # rather no events than no report
            log.warning("%d bytes of events are more than the exchange takes: not told", len(bytes(report.events)))
            packed = words.pack(self._told(msgspec.structs.replace(report, events=msgspec.Raw(b"[]"))))
        if len(packed) > self._link.most_bytes:
            log.error("the report of this edge has %d bytes, more than the exchange takes: not told", len(packed))
            return
        await client.publish(words.report_subject(self.name), packed)

    def _told(self, report: Report) -> words.Told:
        told = words.Told(self._site, msgspec.Raw(msgspec.json.encode(report)), term=self._term)
        if self._names is None:
            return told
        serial, places = self._names.serial, self._names.places_sha256
        return msgspec.structs.replace(told, names_serial=serial, names_places=places)

    # ---- in the thread of the link ----

    async def _on_connected(self, client: NatsClient) -> None:
        if self._membership and not await self._is_member(client, self._membership):
            return
        if self._listens is not client:  # else it is tried again, and has them
            await client.subscribe(words.ask_subject(self.name), cb=self._on_ask)
            await client.subscribe(words.snapshot_subject(self.name), cb=self._on_new_snapshot)
            if self._listens is None:
                self._link.begin(self._keep_looking())
            self._listens = client
        await self._catch_up()
        await self._in_thread(self._observe)

    async def _is_member(self, client: NatsClient, membership: Membership) -> bool:
        """Whether that connection is one of the edge as it is known now; if not, there will be another."""
        try:
            if membership.is_invited:
                await membership.certify(client)
        except Refused as error:
            membership.refusal = f"control does not let this edge in: {error}"
            log.error("exchange: %s", membership.refusal)
            return False
        if client.identity is membership.identity():
            return True
        self._identify()
        await self._link.renew()
        return False

    async def _keep_certified(self, membership: Membership) -> None:
        if not membership.is_invited and membership.is_renewal_due:
            try:
                await membership.certify(self._link.client())
            except Refused as error:
                raise Unreachable(f"control does not certify this edge any more: {error}") from error
            self._identify()
            await self._link.renew()

    async def _keep_looking(self) -> None:
        last = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            if not self._link.is_up:
                continue
            try:
                await self._catch_up()
                if self._membership:
                    await self._keep_certified(self._membership)
                last = ""
            except Exception as error:  # whatever it is, the next look may go well
                if str(error) != last:
                    last = str(error)
                    log.warning("exchange: %s: %s", type(error).__name__, error)

    async def _on_new_snapshot(self, _: Msg) -> None:
        self._link.begin(self._catch_up())

    async def _catch_up(self, wanted: int = 0) -> None:
        """Take the newest snapshot, if it is another one than was judged last; `wanted`: the revision that will do."""
        async with self._taking:
            if wanted and self._revision == wanted:
                return
            try:  # by its own name alone, which is all that it may read
                subject = words.snapshot_subject(self.name)
                entry = await self._link.client().jetstream().get_last_msg(words.STREAM, subject, direct=True)
            except (NotFoundError, NoRespondersError):
                return  # nobody has made one yet
            if not entry.seq or entry.seq == self._revision or not entry.data:
                return
            try:
                self._check_term(words.term_of(entry.headers))
                snapshot = words.unpack(entry.data, words.MOST_SNAPSHOT_BYTES)
                self._outcome = await self._in_thread(partial(self._present().apply, snapshot))
            except words.Unreadable as error:
                self._outcome = EdgeRefused("snapshot_unreadable", f"the snapshot cannot be read: {error}")
            except EdgeRefused as error:
                self._outcome = error
                if error.code == LEAVING:  # it is judged at the next look, or when control asks again
                    log.info("snapshot %d waits: %s", entry.seq, error)
                    return
            self._revision = entry.seq
            if isinstance(self._outcome, EdgeRefused):
                log.error("snapshot %d was refused (%s): %s", entry.seq, self._outcome.code, self._outcome)
            await self._in_thread(self._observe)  # control hears of it in the next report, which is this one

    def _check_term(self, term: int) -> None:
        if term < self._term:
            raise EdgeRefused("not_leading", f"its control has led in term {term}, and there was term {self._term}")
        self._term = term

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
            case words.PutBlob(sha256, size_bytes, kind, overlaps, private):
                content = await self._blob(sha256, size_bytes)
                return await self._in_thread(partial(edge.put_blob, kind, content, overlaps=overlaps, private=private))
            case words.PutNames(sha256, size_bytes):
                table = await self._blob(sha256, size_bytes)
                return await self._in_thread(partial(self._names_here().set_table, table))
            case words.PutPlaces(sha256, size_bytes):
                places = await self._blob(sha256, size_bytes) if size_bytes else None
                return await self._in_thread(partial(self._names_here().set_places, places))
            case words.HasBlob(digest):
                return await self._in_thread(partial(edge.has_blob, digest))
            case words.AllRuleHits():
                return await self._in_thread(edge.rule_hits)
            case words.Steer(routes):
                return await self._in_thread(partial(edge.steer, bytes(routes)))
            case words.Explain(application, client, port):
                return await self._in_thread(partial(edge.explain, application, client, port))

    async def _applied(self, revision: int) -> ApplyReport:
        await self._catch_up(revision)
        if isinstance(self._outcome, EdgeRefused) and self._outcome.code == LEAVING:
            raise self._outcome
        if self._revision < revision:  # of a store that was lost, and begins at 1, is none here any more
            raise EdgeRefused("snapshot_missing", f"the exchange has no snapshot of revision {revision} for this edge")
        if self._outcome is None or isinstance(self._outcome, EdgeRefused):
            raise self._outcome or EdgeRefused("snapshot_missing", "no snapshot was judged yet")
        return self._outcome

    async def _blob(self, sha256: str, size_bytes: int) -> bytes:
        if size_bytes > _MOST_BLOB_BYTES:
            raise EdgeRefused("blob_too_large", f"a list has {size_bytes} bytes, at most {_MOST_BLOB_BYTES} are taken")
        content, subject = bytearray(), words.chunk_subject(self.name)
        while len(content) < size_bytes:
            asked = msgspec.json.encode(words.Chunk(sha256, len(content)))
            chunk = (await self._link.client().request(subject, asked, timeout=_CHUNK_S)).data
            if not chunk:
                raise EdgeRefused("blob_missing", "control does not lend that list any more")
            content += chunk
        if hashlib.sha256(content).hexdigest() != sha256:
            raise EdgeRefused("blob_damaged", "a list has arrived as another than it was")
        return bytes(content)

    def _names_here(self) -> Names:
        if self._names is None:
            raise EdgeRefused("names_missing", "this edge does not answer names: start it with --dns")
        return self._names

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
