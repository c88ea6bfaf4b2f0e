"""The exchange as control sees it: every edge that has come onto it, each with a side of the bus of its own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import KeyValueConfig, ObjectStoreConfig, StorageType
from nats.js.errors import BucketNotFoundError, NotFoundError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from causeway.exchange import words
from causeway.exchange.board import Board, EventReader
from causeway.exchange.bus import EdgeRefused
from causeway.exchange.link import Link, Unreachable, Where
from causeway.model.edge import is_edge_name
from causeway.model.report import ApplyReport, BlobReport, Event, Explanation, Report, RuleHits

log = logging.getLogger(__name__)

_T = TypeVar("_T")
ASK_S = 10.0  # to apply a snapshot of thousands of applications
_PUT_S = 5.0
_STORE_S = 120.0  # of a database
_BLOBS_KEPT_S = 3_600  # edges take them within seconds, and who comes later has them put there again
_LEASE_S, _RENEW_S = 6.0, 2.0  # an edge sends events for so long, and is asked to go on so often
_SILENT_S = 5.0  # reports come once a second
_MOST_EDGES = 1_000


class RemoteEdge:
    """Control's side of the bus (see `bus.ControlSide`) for one edge of another machine."""

    def __init__(self, name: str, link: Link) -> None:
        self.name = name
        self.told: words.Told | None = None
        self._link, self._board = link, Board()
        self._heard_s = 0.0

    @property
    def silent_s(self) -> float:
        """Since its last report."""
        return time.monotonic() - self._heard_s

    @property
    def is_silent(self) -> bool:
        return self.silent_s > _SILENT_S

    def hear(self, told: words.Told, report: Report) -> None:
        self.told, self._heard_s = told, time.monotonic()
        self._board.put_up(report)

    def deliver(self, snapshot: bytes) -> ApplyReport:
        """Leave the snapshot where the edge finds it, and have it applied now.

        Raises:
            EdgeRefused: it was refused, or (`edge_silent`) the edge does not answer: it takes it when it is back.
        """
        packed = words.pack(snapshot)
        if len(packed) > self._link.most_bytes:
            raise EdgeRefused(
                "snapshot_too_large",
                f"the snapshot of edge {self.name} has {len(packed)} bytes, the exchange takes "
                f"{self._link.most_bytes}: raise max_payload of nats-server",
            )
        try:
            revision = self._link.wait(_put(self._link, self.name, packed), _PUT_S)
        except Unreachable as error:
            raise EdgeRefused(
                "exchange_unreachable", f"the snapshot could not be left for {self.name}: {error}"
            ) from error
        return self._ask(words.Apply(revision), ApplyReport)

    def report(self) -> Report | None:
        return self._board.report

    def fresh_report(self) -> Report | None:
        try:
            return self._ask(words.Observe(), Report)
        except EdgeRefused:
            return self._board.report

    def put_blob(self, kind: str, content: bytes, *, overlaps: bool, private: bool) -> BlobReport:
        stored = hashlib.sha256(content).hexdigest()
        try:
            self._link.wait(_store(self._link, stored, content), _STORE_S)
        except Unreachable as error:
            raise EdgeRefused("exchange_unreachable", f"a list could not be left for {self.name}: {error}") from error
        return self._ask(words.PutBlob(stored, kind, overlaps, private), BlobReport, _STORE_S)

    def has_blob(self, digest: str) -> bool:
        return self._ask(words.HasBlob(digest), bool)

    def rule_hits(self) -> list[RuleHits]:
        return self._ask(words.AllRuleHits(), list[RuleHits])

    def explain(self, application: str, client: str, port: int) -> Explanation | None:
        return self._ask(words.Explain(application, client, port), Explanation | None)  # type: ignore[arg-type]

    def recent(self) -> list[Event]:
        return self._board.recent()

    @contextmanager
    def events(self, notify: Callable[[], None]) -> Iterator[EventReader]:
        is_over = threading.Event()
        with self._board.reading(notify) as reader:
            self._link.begin(self._keep_listening(is_over))
            try:
                yield reader
            finally:
                is_over.set()

    async def _keep_listening(self, is_over: threading.Event) -> None:
        listen = msgspec.json.encode(words.Listen(_LEASE_S))
        while not is_over.is_set():
            with suppress(Unreachable, NatsError):  # who is away is asked again
                await self._link.client().publish(words.ask_subject(self.name), listen)
            await asyncio.sleep(_RENEW_S)

    def _ask(self, ask: words.Ask, of: type[_T], within_s: float = ASK_S) -> _T:
        try:
            answer = self._link.wait(_question(self._link, self.name, msgspec.json.encode(ask), within_s), within_s + 1)
        except (Unreachable, words.Unreadable) as error:
            raise EdgeRefused("edge_silent", f"edge {self.name} does not answer: {error}") from error
        if answer.code:
            raise EdgeRefused(answer.code, answer.message)
        try:
            return msgspec.json.decode(answer.value, type=of)
        except msgspec.MsgspecError as error:
            raise EdgeRefused("answer_unreadable", f"edge {self.name} answers in other words: {error}") from error


class NatsControl:
    """All edges on the exchange. `on_change` is called, from another thread, when one has come or is another site."""

    def __init__(self, where: Where, on_change: Callable[[], None]) -> None:
        self._link = Link(where, "control", self._on_connected)
        self._on_change = on_change
        self._edges: dict[str, RemoteEdge] = {}
        self._is_listening = False

    def start(self) -> None:
        self._link.start()

    def stop(self) -> None:
        self._link.stop()

    @property
    def is_connected(self) -> bool:
        return self._link.is_up

    def edges(self) -> list[RemoteEdge]:
        """Those that have reported since this process began, by name."""
        return [self._edges[name] for name in sorted(self._edges)]

    def edge(self, name: str) -> RemoteEdge:
        """The side for an edge, whether it has reported or not."""
        return self._edges.get(name) or RemoteEdge(name, self._link)

    async def _on_connected(self, client: Client) -> None:
        jetstream = client.jetstream()
        try:
            await jetstream.key_value(words.SNAPSHOTS)
        except (BucketNotFoundError, NotFoundError):
            await jetstream.create_key_value(KeyValueConfig(words.SNAPSHOTS, storage=StorageType.FILE, direct=True))
        try:
            await jetstream.object_store(words.BLOBS)
        except (BucketNotFoundError, NotFoundError):
            told = ObjectStoreConfig(storage=StorageType.FILE, ttl=_BLOBS_KEPT_S)
            await jetstream.create_object_store(words.BLOBS, told)
        if not self._is_listening:
            await client.subscribe(words.REPORTS, cb=self._on_report)
            self._is_listening = True
        self._on_change()

    async def _on_report(self, message: Msg) -> None:
        name = message.subject.split(".")[2]
        try:
            told, report = words.read_told(message.data)
        except words.Unreadable as error:
            log.warning("a report of edge %s cannot be read: %s", name, error)
            return
        edge = self._edges.get(name)
        if edge is None:
            if not is_edge_name(name) or len(self._edges) >= _MOST_EDGES:
                log.warning("edge %r is not taken up: at most %d, called like fra-1", name, _MOST_EDGES)
                return
            edge = self._edges[name] = RemoteEdge(name, self._link)
        before = edge.report()
        has_lost = before is not None and report.version < before.version  # it began anew, on an empty disk
        is_news = edge.told is None or edge.told.site != told.site or edge.is_silent or has_lost
        edge.hear(told, report)
        if is_news:
            self._on_change()


async def _put(link: Link, name: str, packed: bytes) -> int:
    return await (await link.bucket(words.SNAPSHOTS)).put(name, packed)


async def _store(link: Link, stored: str, content: bytes) -> None:
    store: ObjectStore = await link.client().jetstream().object_store(words.BLOBS)
    try:
        await store.get_info(stored)  # content is its own name: another edge has it already
    except (ObjectNotFoundError, NotFoundError):
        await store.put(stored, content)


async def _question(link: Link, name: str, ask: bytes, within_s: float) -> words.Answer:
    try:
        answer: Any = await link.client().request(words.ask_subject(name), ask, timeout=within_s)
    except NoRespondersError as error:
        raise Unreachable("it is not on the exchange") from error
    return words.read_answer(answer.data)
