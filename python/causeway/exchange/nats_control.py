"""The exchange as control sees it: every edge that has come onto it, each with a side of the bus of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import Header, KeyValueConfig, StorageType
from nats.js.errors import APIError, BucketNotFoundError, NotFoundError

from causeway.exchange import words
from causeway.exchange.board import Board, EventReader
from causeway.exchange.bus import EdgeRefused
from causeway.exchange.identity import Identity
from causeway.exchange.link import Link, NatsClient, Unreachable, Where
from causeway.exchange.loans import Loans
from causeway.model.edge import is_edge_name
from causeway.model.report import ApplyReport, BlobReport, Event, Explanation, Report, RuleHits

log = logging.getLogger(__name__)

_T = TypeVar("_T")
ASK_S = 10.0  # to apply a snapshot of thousands of applications
_PUT_S = 5.0
_BLOB_S = 120.0  # to fetch and take in a database
_LEASE_S, _RENEW_S = 6.0, 2.0  # an edge sends events for so long, and is asked to go on so often
_SILENT_S = 5.0  # reports come once a second
_MOST_EDGES = 1_000
_WRONG_LAST_SEQUENCE = 10_071  # of JetStream: somebody was faster
_MOST_LEAP = 1_000_000  # terms, of which there is one for each new leader
_ACCOUNTS = "$SYS.REQ.CLAIMS.UPDATE"


class Lead:
    """Whether this control leads, of several, and in which term. One that is alone leads in term 0."""

    def __init__(self, term: Callable[[], int | None] = lambda: 0) -> None:
        self.term = term
        self.newest = 0  # that edges or the exchange have seen

    def is_seen(self, term: int) -> None:
        self.newest = max(self.newest, term)

    def is_told(self, term: int) -> None:
        """By an edge, which may say what it likes: so nobody can use up the numbers that there are."""
        if term <= max(self.newest, self.term() or 0) + _MOST_LEAP:
            self.is_seen(term)

    def checked(self, wanted: int | None = None) -> int:
        """The term. Raises EdgeRefused: another one leads, or this one does again, and not in the `wanted` term."""
        term = self.term()
        if term is None or wanted not in (None, term):
            raise EdgeRefused("not_leading", "this control node does not lead: what edges do is another's to say")
        return term


class RemoteEdge:
    """Control's side of the bus (see `bus.ControlSide`) for one edge of another machine."""

    def __init__(self, name: str, link: Link, loans: Loans, lead: Lead) -> None:
        self.name, self._lead = name, lead
        self.told: words.Told | None = None
        self.tells_content = False  # it has said what it serves; when it does not any more, it was started anew
        self._link, self._loans, self._board = link, loans, Board()
        self._heard_s = 0.0

    @property
    def heard_s(self) -> float:
        """When it reported last, on the monotonic clock."""
        return self._heard_s

    @property
    def silent_s(self) -> float:
        """Since its last report."""
        return time.monotonic() - self._heard_s

    @property
    def is_silent(self) -> bool:
        return self.silent_s > _SILENT_S

    def hear(self, told: words.Told, report: Report) -> None:
        self.told, self._heard_s = told, time.monotonic()
        self.tells_content |= report.content is not None
        self._board.put_up(report)

    def deliver(self, snapshot: bytes, term: int | None = None) -> ApplyReport:
        """Leave the snapshot where the edge finds it, and have it applied now.

        `term`: in which it was made.

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
            revision = self._link.wait(_put(self._link, self.name, packed, self._lead, term), _PUT_S)
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
        self._lead.checked()
        with self._loans.lent(content) as sha256:
            return self._ask(words.PutBlob(sha256, len(content), kind, overlaps, private), BlobReport, _BLOB_S)

    def put_names(self, table: bytes) -> None:
        """Have it answer names by this table. Raises EdgeRefused: it does not."""
        self._lead.checked()
        with self._loans.lent(table) as sha256:
            self._ask(words.PutNames(sha256, len(table)), type(None), _BLOB_S)

    def put_places(self, mmdb: bytes) -> str | None:
        """Have it know where clients are by this file; empty: not at all. Raises EdgeRefused: it did not hear."""
        self._lead.checked()
        with self._loans.lent(mmdb) as sha256:
            return self._ask(words.PutPlaces(sha256, len(mmdb)), str | None, _BLOB_S)  # type: ignore[arg-type]

    def has_blob(self, digest: str) -> bool:
        return self._ask(words.HasBlob(digest), bool)

    def steer(self, routes: bytes) -> None:
        self._lead.checked()
        self._ask(words.Steer(msgspec.Raw(routes)), type(None))

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


class Registry(Protocol):
    """Who may be an edge here. Called in threads of the exchange's own."""

    def enrol(self, invitation: str, request: str) -> words.Granted:
        """Certify who was invited. Raises NotGranted."""

    def renew(self, name: str, request: str) -> words.Granted:
        """Certify an edge anew. Raises NotGranted."""

    def account_jwt(self) -> str:
        """What nats-server has to know of those that were revoked. Raises Unreachable: it is not known now."""

    def system(self) -> Identity:
        """Who may tell it."""


class NotGranted(Exception):
    """Nor will it be when asked again; the message says why. Whatever else is raised may pass."""


class NatsControl:
    """All edges on the exchange. `on_change` is called, from another thread, when one has come or is another site.

    `registry`: where nats-server lets in whom control says, and nobody else.
    """

    def __init__(
        self,
        where: Where,
        on_change: Callable[[], None],
        registry: Registry | None = None,
        term: Callable[[], int | None] = lambda: 0,
    ) -> None:
        """`term`: in which this control leads, of several; None: another one does, and this one only listens."""
        self._link = Link(where, "control", self._on_connected)
        self._where, self._on_change, self._registry = where, on_change, registry
        self._loans, self._lead = Loans(), Lead(term)
        self._edges: dict[str, RemoteEdge] = {}
        self._listens: NatsClient | None = None  # which one has our subscriptions

    def start(self) -> None:
        self._link.start()

    def stop(self) -> None:
        self._link.stop()

    @property
    def is_connected(self) -> bool:
        return self._link.is_up

    @property
    def most_bytes(self) -> int:
        """Of a message."""
        return self._link.most_bytes

    @property
    def newest_term(self) -> int:
        """Of control, that edges or the exchange have seen."""
        return self._lead.newest

    def edges(self) -> list[RemoteEdge]:
        """Those that have reported since this process began, by name."""
        return [self._edges[name] for name in sorted(self._edges)]

    def edge(self, name: str) -> RemoteEdge:
        """The side for an edge, whether it has reported or not."""
        return self._edges.get(name) or RemoteEdge(name, self._link, self._loans, self._lead)

    def forget(self, name: str) -> None:
        """It is no edge any more, and nothing is left for it.

        Raises:
            Unreachable: nats-server cannot be asked to; it is when control connects again.
        """
        try:
            self._link.wait(self._forget(name), _PUT_S)
        finally:
            self._edges.pop(name, None)

    async def _forget(self, name: str) -> None:
        await self._tell_of_revoked()
        with suppress(NotFoundError):
            await (await self._link.bucket(words.SNAPSHOTS)).purge(name)

    async def _tell_of_revoked(self) -> None:
        """Over a connection of its own: who speaks for edges does not speak for accounts, nor the other way round."""
        if self._registry is None:
            return
        told = await _in_thread(self._registry.account_jwt)
        client = NatsClient(replace(self._where, identity=self._registry.system))
        try:
            await client.open(name="control-accounts", allow_reconnect=False)
            answer = msgspec.json.decode((await client.request(_ACCOUNTS, told.encode(), timeout=_PUT_S)).data)
        finally:
            await client.end()
        if "error" in answer:
            raise Unreachable(f"nats-server does not take who was revoked: {answer['error']}")

    async def _on_connected(self, client: NatsClient) -> None:
        jetstream = client.jetstream()
        try:
            await jetstream.key_value(words.SNAPSHOTS)
        except (BucketNotFoundError, NotFoundError):
            await jetstream.create_key_value(KeyValueConfig(words.SNAPSHOTS, storage=StorageType.FILE, direct=True))
        if self._listens is not client:
            await client.subscribe(words.REPORTS, cb=self._on_report)
            await client.subscribe(words.CHUNKS, cb=self._on_chunk)
            if self._registry:
                await client.subscribe(words.ENROLMENTS, cb=partial(self._on_enrol, self._registry.enrol))
                await client.subscribe(words.RENEWALS, cb=partial(self._on_enrol, self._registry.renew))
            self._listens = client
        self._on_change()
        await self._tell_of_revoked()  # last, for all else does without; nats-server has known since it started

    async def _on_chunk(self, message: Msg) -> None:
        if self._lead.term() is None:  # another one has lent it
            return
        try:
            asked = words.read_chunk(message.data)
        except words.Unreadable as error:
            log.warning("a question for a list, on %s, cannot be read: %s", message.subject, error)
            return
        await message.respond(self._loans.chunk(asked.sha256, asked.offset, self._link.most_bytes))

    async def _on_enrol(self, certify: Callable[[str, str], words.Granted], message: Msg) -> None:
        """One at a time, and the subject says who asks: nats-server lets nobody else use it."""
        if self._lead.term() is None:  # another one answers
            return
        who = message.subject.split(".")[2]
        try:
            granted = await _in_thread(partial(certify, who, words.read_enrol(message.data).request))
            answer = words.Answer(value=msgspec.Raw(msgspec.json.encode(granted)))
        except words.Unreadable as error:
            answer = words.Answer(code=words.REFUSED, message=f"the request cannot be read: {error}")
        except NotGranted as error:
            answer = words.Answer(code=words.REFUSED, message=str(error))
        except Exception as error:  # whatever it is, who asks must hear of it
            log.exception("a certificate could not be given to %s", who)
            answer = words.Answer(code="later", message=f"control failed: {type(error).__name__}")
        await message.respond(words.pack(answer))

    async def _on_report(self, message: Msg) -> None:
        name = message.subject.split(".")[2]
        try:
            told, report = words.read_told(message.data)
        except words.Unreadable as error:
            log.warning("a report of edge %s cannot be read: %s", name, error)
            return
        self._lead.is_told(told.term)
        edge = self._edges.get(name)
        if edge is None:
            if not is_edge_name(name) or len(self._edges) >= _MOST_EDGES:
                log.warning("edge %r is not taken up: at most %d, called like fra-1", name, _MOST_EDGES)
                return
            edge = self._edges[name] = RemoteEdge(name, self._link, self._loans, self._lead)
        before = edge.report()
        has_lost = before is not None and (
            report.version < before.version  # it began anew, on an empty disk
            or (report.content is None and before.content is not None)  # or on its disk, and does not know what it has
        )
        is_news = edge.told is None or edge.told.site != told.site or edge.is_silent or has_lost
        edge.hear(told, report)
        if is_news:
            self._on_change()


async def _put(link: Link, name: str, packed: bytes, lead: Lead, wanted: int | None) -> int:
    """Put it there under our term, unless there is one of a later term. Raises EdgeRefused: then it is not ours to say.

    What is there is looked at first, and the exchange takes ours in its place or not at all: so one that was held up in
    between cannot put back what another has replaced.
    """
    term = lead.checked(wanted)
    if not term:
        return await (await link.bucket(words.SNAPSHOTS)).put(name, packed)
    jetstream, subject = link.client().jetstream(), words.snapshot_subject(name)
    while True:
        try:
            present = await jetstream.get_last_msg(words.STREAM, subject, direct=True)
            before, revision = words.term_of(present.headers), present.seq or 0
        except NotFoundError:
            before, revision = 0, 0
        lead.is_seen(before)
        if before > term:
            raise EdgeRefused("not_leading", f"control of term {before} has left a snapshot there, this is term {term}")
        said = {words.TERM: str(term), Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
        try:
            return (await jetstream.publish(subject, packed, headers=said)).seq
        except APIError as error:
            if error.err_code != _WRONG_LAST_SEQUENCE:
                raise
        lead.checked(term)


async def _in_thread(act: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(None, act)


async def _question(link: Link, name: str, ask: bytes, within_s: float) -> words.Answer:
    try:
        answer: Any = await link.client().request(words.ask_subject(name), ask, timeout=within_s)
    except NoRespondersError as error:
        raise Unreachable("it is not on the exchange") from error
    return words.read_answer(answer.data)
