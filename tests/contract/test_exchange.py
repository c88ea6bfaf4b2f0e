"""One contract for every exchange: in this process, and over a real nats-server."""

import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import msgspec
import pytest
from support.nats import CertifyingServer, NatsServer, OpenRegistry
from support.patience import eventually
from support.program import Programs

from causeway.exchange import words
from causeway.exchange.bus import ControlSide, Edge, EdgeRefused, EdgeSide
from causeway.exchange.link import Where
from causeway.exchange.local import LocalExchange
from causeway.exchange.membership import Membership
from causeway.exchange.nats_control import NatsControl
from causeway.exchange.nats_edge import NatsEdge
from causeway.model.report import ApplyReport, BlobReport, Explanation, Report, RuleHits, decode_report

SITE = words.Site(["198.18.0.1"])


def report(version: int = 0, *flows: int) -> Report:
    events = [
        {
            "seq": flow, "kind": "connect", "time_ms": 1, "application": "a" * 32, "flow": flow, "protocol": "tcp",
            "client": "192.0.2.1:1", "edge": "198.18.0.1:1", "origin": None, "connect_time_ms": None,
            "client_bytes": 0, "origin_bytes": 0, "client_rtt_ns": 0, "origin_rtt_ns": 0, "status": 0,
            "cause": "opened", "message": "",
        }
        for flow in flows
    ]  # fmt: skip
    told: dict[str, Any] = {
        "version": version, "is_draining": False, "uptime_ms": 1, "workers": 1,
        "open_files": {"used": 1, "limit": 2}, "totals": {}, "applications": [], "refused": [], "events": events,
        "events_lost": 0, "rejected_snapshots": [],
    }  # fmt: skip
    return decode_report(json.dumps(told).encode())


class Scripted:
    """An edge that does what a test says: the engine itself has tests of its own."""

    def __init__(self, side: EdgeSide) -> None:
        self._side = side
        self.snapshots: list[bytes] = []
        self.blobs: list[tuple[str, bytes, bool, bool]] = []
        self.refusal: EdgeRefused | None = None
        self.woken = threading.Event()
        self.asked, self.answers = threading.Event(), threading.Event()
        self.answers.set()

    def apply(self, snapshot: bytes) -> ApplyReport:
        if self.refusal:
            raise self.refusal
        self.snapshots.append(snapshot)
        return ApplyReport(len(self.snapshots), "applied", [])

    def observe(self) -> Report:
        seen = report(len(self.snapshots))
        self._side.publish(seen)
        return seen

    def wake(self) -> None:
        self.woken.set()

    def put_blob(self, kind: str, content: bytes, *, overlaps: bool, private: bool) -> BlobReport:
        if self.refusal:
            raise self.refusal
        self.blobs.append((kind, content, overlaps, private))
        return BlobReport("d" * 64, len(content), 1)

    def has_blob(self, digest: str) -> bool:
        return bool(self.blobs) and digest == "d" * 64

    def rule_hits(self) -> list[RuleHits]:
        self.asked.set()
        self.answers.wait(20)
        return [RuleHits("r" * 32, 3, 4)]

    def identify(self, identity: bytes) -> None:
        """There are no others."""

    def explain(self, application: str, client: str, port: int) -> Explanation | None:
        return Explanation("block", application, client, (), port, None) if port else None


class Exchange(Protocol):
    control: ControlSide

    def side(self) -> EdgeSide: ...
    def come(self, edge: Edge, side: EdgeSide) -> None: ...
    def settled(self) -> None: ...


class Local:
    def __init__(self) -> None:
        self._exchange = LocalExchange()
        self.control: ControlSide = self._exchange

    def side(self) -> EdgeSide:
        return self._exchange

    def come(self, edge: Edge, side: EdgeSide) -> None:
        side.attach(edge)

    def settled(self) -> None:
        pass


class OverNats:
    def __init__(self, server: NatsServer, name: str) -> None:
        self._where, self._name, self._server = Where(server.url), name, server
        self.registry: OpenRegistry | None = None
        where = self._where
        if isinstance(server, CertifyingServer):
            self.registry = OpenRegistry(server.authority)
            where = Where(server.url, identity=server.authority.control)
        listens = threading.Event()
        self._control = NatsControl(where, listens.set, self.registry)
        self._control.start()
        assert listens.wait(10)
        self._sides: list[NatsEdge] = []

    @property
    def control(self) -> ControlSide:
        return self._control.edge(self._name)

    def side(self) -> EdgeSide:
        member, where = None, self._where
        if self.registry:
            member = self.member(f"{len(self._sides):032x}")
            where = Where(self._server.url, identity=member.identity)
        self._sides.append(NatsEdge(where, self._name, SITE, member))
        return self._sides[-1]

    def member(self, invitation: str) -> Membership:
        """An edge that was invited, and keeps what it gets in a file."""
        assert self.registry
        path = self._server.store.parent / f"{invitation}.json"
        return Membership(path, self.registry.invite(invitation, self._name))

    def come(self, edge: Edge, side: EdgeSide) -> None:
        side.attach(edge)
        # A real agent reports once a second: the first report may come before anybody listens.
        eventually(lambda: edge.observe() and [known.name for known in self._control.edges()] == [self._name])

    def settled(self) -> None:
        """What was published has arrived."""
        self.control.rule_hits()

    def close(self) -> None:
        for side in self._sides:
            side.stop()
        self._control.stop()


@contextmanager
def _made(kind: str, programs: Programs) -> Iterator[Exchange]:
    if kind == "local":
        yield Local()
        return
    makes = CertifyingServer if kind == "certified" else NatsServer
    exchange = OverNats(makes(programs, programs.folder / "store").start(), "fra-1")
    try:
        yield exchange
    finally:
        exchange.close()


@pytest.fixture(params=["local", "nats", "certified"])
def exchange(request: pytest.FixtureRequest, programs: Programs) -> Iterator[Exchange]:
    made: AbstractContextManager[Exchange] = _made(request.param, programs)
    with made as found:
        yield found


@pytest.fixture
def scripted(exchange: Exchange) -> Scripted:
    side = exchange.side()
    edge = Scripted(side)
    exchange.come(edge, side)
    return edge


def test_nobody_has_come(exchange: Exchange) -> None:
    assert exchange.control.report() is None
    assert exchange.control.fresh_report() is None
    with pytest.raises(EdgeRefused):
        exchange.control.deliver(b"{}")


def test_a_snapshot_arrives_whole_and_is_answered(exchange: Exchange, scripted: Scripted) -> None:
    snapshot = json.dumps({"applications": list(range(50_000))}).encode()
    assert exchange.control.deliver(snapshot) == ApplyReport(1, "applied", [])
    assert scripted.snapshots == [snapshot]


def test_each_delivery_is_judged_once_and_in_order(exchange: Exchange, scripted: Scripted) -> None:
    for number in range(20):
        assert exchange.control.deliver(str(number).encode()).version == number + 1
    assert scripted.snapshots == [str(number).encode() for number in range(20)]


def test_a_refusal_comes_back_with_its_code_and_the_next_snapshot_is_taken(
    exchange: Exchange, scripted: Scripted
) -> None:
    scripted.refusal = EdgeRefused("snapshot_invalid", "it names no port")
    with pytest.raises(EdgeRefused, match="it names no port") as refused:
        exchange.control.deliver(b"bad")
    assert refused.value.code == "snapshot_invalid"
    scripted.refusal = None
    assert exchange.control.deliver(b"good").outcome == "applied"
    assert scripted.snapshots == [b"good"]


def test_the_newest_report_is_kept_and_a_fresh_one_can_be_asked_for(exchange: Exchange, scripted: Scripted) -> None:
    exchange.control.deliver(b"one")
    fresh = exchange.control.fresh_report()
    assert fresh and fresh.version == 1
    exchange.settled()
    newest = exchange.control.report()
    assert newest and newest.version == 1


def test_events_reach_who_listens_and_are_kept_for_who_comes(exchange: Exchange, scripted: Scripted) -> None:
    side = scripted._side
    side.publish(report(1, 1, 2))
    eventually(lambda: [event.flow for event in exchange.control.recent()] == [1, 2])
    assert not side.has_readers
    notified = threading.Event()
    with exchange.control.events(notified.set) as reader:
        eventually(lambda: side.has_readers)
        assert scripted.woken.wait(5)
        side.publish(report(1, 3))
        assert notified.wait(5)
        events, lost = reader.take()
        assert ([event.flow for event in events], lost) == ([3], 0)
    eventually(lambda: not side.has_readers, 10)


def test_lists_go_to_the_edge_with_their_rules(exchange: Exchange, scripted: Scripted) -> None:
    content = bytes(range(256)) * 8_192  # larger than one message
    assert not exchange.control.has_blob("d" * 64)
    assert exchange.control.put_blob("prefixes", content, overlaps=True, private=False).bytes == len(content)
    assert scripted.blobs == [("prefixes", content, True, False)]
    assert exchange.control.has_blob("d" * 64)
    scripted.refusal = EdgeRefused("list_invalid", "line 3: no prefix")
    with pytest.raises(EdgeRefused, match="line 3"):
        exchange.control.put_blob("prefixes", b"x", overlaps=False, private=False)


def test_questions_are_answered(exchange: Exchange, scripted: Scripted) -> None:
    assert exchange.control.rule_hits() == [RuleHits("r" * 32, 3, 4)]
    assert exchange.control.explain("a" * 32, "192.0.2.1", 22) == Explanation(
        "block", "a" * 32, "192.0.2.1", (), 22, None
    )
    assert exchange.control.explain("a" * 32, "192.0.2.1", 0) is None


def takes(control: ControlSide, snapshot: bytes) -> bool:
    try:
        return control.deliver(snapshot).outcome == "applied"
    except EdgeRefused:
        return False


@pytest.fixture
def server(programs: Programs) -> NatsServer:
    return NatsServer(programs, programs.folder / "store").start()


def test_an_edge_that_was_away_finds_the_newest_snapshot(server: NatsServer) -> None:
    over = OverNats(server, "fra-1")
    try:
        for number in range(3):
            with pytest.raises(EdgeRefused) as refused:
                over.control.deliver(str(number).encode())
            assert refused.value.code == "edge_silent"
        side = over.side()
        edge = Scripted(side)
        over.come(edge, side)
        eventually(lambda: edge.snapshots == [b"2"])
    finally:
        over.close()


def test_both_sides_go_on_when_the_server_was_gone(server: NatsServer) -> None:
    over = OverNats(server, "fra-1")
    try:
        side = over.side()
        edge = Scripted(side)
        over.come(edge, side)
        over.control.deliver(b"before")
        server.kill()
        with pytest.raises(EdgeRefused):
            over.control.deliver(b"meanwhile")
        server.start()
        eventually(lambda: takes(over.control, b"after"), 20)
        assert edge.snapshots[0] == b"before" and edge.snapshots[-1] == b"after"
    finally:
        over.close()


def test_who_waits_for_an_edge_hears_at_once_that_the_server_is_gone(server: NatsServer) -> None:
    over = OverNats(server, "fra-1")
    try:
        side = over.side()
        edge = Scripted(side)
        over.come(edge, side)
        edge.answers.clear()
        edge.asked.clear()
        told: list[EdgeRefused] = []

        def ask() -> None:
            with pytest.raises(EdgeRefused) as refused:
                over.control.rule_hits()
            told.append(refused.value)

        asking = threading.Thread(target=ask)
        asking.start()
        assert edge.asked.wait(5)
        server.kill()
        asking.join(4)  # and not after the 10 s that an answer may take
        is_told = bool(told)
        edge.answers.set()
        asking.join()
        assert is_told and told[0].code == "edge_silent"
    finally:
        over.close()


def test_no_consumer_is_left_over_however_often_an_edge_comes_and_goes(server: NatsServer) -> None:
    over = OverNats(server, "fra-1")
    try:
        for number in range(20):
            side = over.side()
            edge = Scripted(side)
            side.attach(edge)
            eventually(lambda: takes(over.control, str(number).encode()))  # noqa: B023
            side.stop()
        info = over._control._link.wait(_consumers(over), 5)
        assert info == 0
    finally:
        over.close()


async def _consumers(over: OverNats) -> int:
    jetstream = over._control._link.client().jetstream()
    return (await jetstream.stream_info(f"KV_{words.SNAPSHOTS}")).state.consumer_count


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "end is missing"),
        (b"nonsense", "not compressed"),
        (words.pack(b"{}")[:-1], "end is missing"),
        (words.pack(bytes(1_001)), "larger than 1000"),
    ],
)
def test_what_no_causeway_sends_is_refused_with_a_reason(data: bytes, why: str) -> None:
    with pytest.raises(words.Unreadable, match=why):
        words.unpack(data, 1_000)


def test_a_message_that_cannot_be_read_disturbs_nobody(server: NatsServer) -> None:
    over = OverNats(server, "fra-1")
    try:
        side = over.side()
        edge = Scripted(side)
        over.come(edge, side)
        for data in (b"", b"nonsense", words.pack(b"[]"), words.pack(msgspec.json.encode({"site": 1}))):
            over._control._link.wait(_shout(over, words.report_subject("fra-1"), data), 5)
            over._control._link.wait(_shout(over, words.ask_subject("fra-1"), data), 5)
        assert over.control.deliver(b"next").outcome == "applied"
    finally:
        over.close()


async def _shout(over: OverNats, subject: str, data: bytes) -> None:
    await over._control._link.client().publish(subject, data)
