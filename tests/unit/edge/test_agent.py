"""The agent and the exchange: reports in order, slow readers told, refused ports asked for again."""

import json
import threading
import time
from typing import Any

import pytest

from causeway.edge import agent as agent_module
from causeway.edge.agent import Agent
from causeway.exchange.board import BACKLOG_EVENTS, EventReader
from causeway.exchange.bus import EdgeRefused
from causeway.exchange.local import LocalExchange
from causeway.model.mitigation import Match, Plan, PlanReport, Rule
from causeway.model.report import decode_events
from causeway.model.snapshot import Settings, encode_snapshot
from causeway.native import NativeError


def event(number: int) -> dict[str, Any]:
    return {
        "seq": number, "kind": "connect", "time_ms": 1, "application": "a" * 32, "flow": number, "protocol": "tcp",
        "client": "192.0.2.1:1", "edge": "127.0.0.1:1", "origin": None, "connect_time_ms": None, "client_bytes": 0,
        "origin_bytes": 0, "client_rtt_ns": 0, "origin_rtt_ns": 0, "status": 0, "cause": "opened", "message": "",
    }  # fmt: skip


class FakeEngine:
    def __init__(self) -> None:
        self.pending: list[dict[str, Any]] = []
        self.busy = False
        self.applied: list[bytes] = []
        self.looks: list[float] = []
        self.drains: list[int] = []
        self.released = threading.Event()
        self.error: NativeError | None = None
        self.plan = b"{}"

    def apply(self, snapshot: bytes) -> bytes:
        if self.error:
            raise self.error
        self.applied.append(snapshot)
        state = "refused" if self.busy else "running"
        ports = {"first": 1, "last": 1}
        listener = {"application": "a", "protocol": "tcp", "address": "::1", "ports": ports, "state": state}
        return json.dumps({"version": 1, "outcome": "applied", "listeners": [listener]}).encode()

    def skip_events(self, keep: int) -> int:
        skipped = max(0, len(self.pending) - keep)
        del self.pending[:skipped]
        return skipped

    def observe(self, max_events: int) -> bytes:
        self.looks.append(time.monotonic())
        taken, self.pending = self.pending[:max_events], self.pending[max_events:]
        ports = {"first": 1, "last": 1}
        refused = [{"application": "a", "protocol": "tcp", "address": "::1", "ports": ports, "state": "refused"}]
        return json.dumps(
            {
                "version": 1,
                "is_draining": bool(self.drains),
                "uptime_ms": 1,
                "workers": 1,
                "open_files": {"used": 1, "limit": 2},
                "totals": {},
                "applications": [],
                "refused": refused if self.busy else [],
                "events": taken,
                "events_lost": 0,
                "rejected_snapshots": [],
            }
        ).encode()

    def guard_look(self, max_samples: int) -> bytes:
        return b'{"at_ms":7,"is_attached":false,"missing":"switched off (--guard off)"}'

    def mitigate(self, plan: bytes) -> bytes:
        if self.error:
            raise self.error
        self.plan = plan
        return b'{"is_attached":true,"refused":{"r":"hops 300"}}'

    def mitigation(self) -> bytes:
        return self.plan

    def drain(self, deadline_ms: int) -> int:
        self.drains.append(deadline_ms)
        if deadline_ms:
            self.released.wait(10)
            return 0
        self.released.set()
        return 1


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def eventually(claim: Any) -> None:
    end = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.alone
def test_a_reader_gets_what_comes_after_it_and_wakes_the_agent(engine: FakeEngine) -> None:
    exchange = LocalExchange()
    agent = Agent(engine, exchange)
    engine.pending = [event(1)]
    agent.start()
    arrived = threading.Event()
    with exchange.events(arrived.set) as reader:
        engine.pending = [event(2), event(3)]
        began = time.monotonic()
        assert arrived.wait(5)
        assert time.monotonic() - began < 0.5, "somebody watches: looks are frequent"
        assert [found.seq for found in reader.take()[0]] == [2, 3]
        assert reader.take() == ([], 0)
    assert [found.seq for found in exchange.recent()] == [1, 2, 3]
    engine.released.set()
    agent.stop(1.0)


@pytest.mark.alone
def test_a_full_look_is_followed_by_the_next_at_once(engine: FakeEngine) -> None:
    exchange = LocalExchange()
    agent = Agent(engine, exchange)
    engine.pending = [event(n) for n in range(30_000)]
    with exchange.events(lambda: None):
        agent.start()
        eventually(lambda: not engine.pending)
    looks = engine.looks[:5]
    assert looks[-1] - looks[1] < 1.0
    engine.released.set()
    agent.stop(1.0)


def test_what_nobody_reads_is_passed_over_but_for_the_newest(engine: FakeEngine) -> None:
    exchange = LocalExchange()
    agent = Agent(engine, exchange)
    engine.pending = [event(n) for n in range(30_000)]
    agent.start()
    assert [found.seq for found in exchange.recent()][-1] == 29_999
    assert len(exchange.recent()) < 1_000
    engine.released.set()
    agent.stop(1.0)


def test_a_slow_reader_loses_the_oldest_and_hears_how_many() -> None:
    reader = EventReader(lambda: None, backlog=3)
    events = decode_events(json.dumps([event(n) for n in range(5)]))
    reader.offer(events)
    taken, lost = reader.take()
    assert ([found.seq for found in taken], lost) == ([2, 3, 4], 2)
    assert reader.take() == ([], 0)
    assert BACKLOG_EVENTS >= 10_000


def test_what_is_kept_is_bounded() -> None:
    exchange, engine = LocalExchange(), FakeEngine()
    agent = Agent(engine, exchange)
    for _ in range(20):
        engine.pending = [event(n) for n in range(500)]
        agent.observe()
    assert 500 <= len(exchange.recent()) < 3_000


def test_a_refused_port_is_asked_for_again(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "_RETRY_S", 0.05)
    monkeypatch.setattr(agent_module, "_LOOK_S", 0.02)
    agent = Agent(engine, LocalExchange())
    engine.busy = True
    agent.start()
    agent.apply(b"snapshot")
    eventually(lambda: len(engine.applied) >= 3)
    assert set(engine.applied) == {b"snapshot"}
    engine.busy = False
    eventually(lambda: len(set(engine.looks)) > 5)
    count = len(engine.applied)
    time.sleep(0.2)
    assert len(engine.applied) <= count + 1, "no more once it is had"
    engine.released.set()
    agent.stop(1.0)


def test_a_refused_snapshot_is_told_with_its_code(engine: FakeEngine) -> None:
    error = NativeError("no")
    error.code, error.side, error.message = "snapshot_invalid", "operator", "no"
    engine.error = error
    with pytest.raises(EdgeRefused) as refused:
        Agent(engine, LocalExchange()).apply(b"")
    assert refused.value.code == "snapshot_invalid"


def test_a_plan_goes_to_the_engine_and_its_answer_comes_back(engine: FakeEngine) -> None:
    agent = Agent(engine, LocalExchange())
    plan = Plan(is_watching=True, rules=[Rule("r", "a" * 32, "drop", Match(protocol=6))])
    assert agent.mitigate(plan) == PlanReport(is_attached=True, refused={"r": "hops 300"})
    assert agent.mitigation() == plan
    assert agent.guard_look(10).missing == "switched off (--guard off)"
    engine.error = NativeError("no")
    engine.error.code, engine.error.side, engine.error.message = "refused", "operator", "this is no plan"
    with pytest.raises(EdgeRefused, match="no plan"):
        agent.mitigate(Plan())
    assert agent.mitigation() == plan, "the one before stays in force"


def test_the_second_stop_cuts_what_the_first_waits_for(engine: FakeEngine) -> None:
    exchange = LocalExchange()
    agent = Agent(engine, exchange)
    agent.start()
    first = threading.Thread(target=agent.stop, args=(30.0,))
    first.start()
    eventually(lambda: engine.drains == [30_000])
    eventually(lambda: (report := exchange.report()) is not None and report.is_draining)
    assert agent.stop(0.0) == 1
    first.join(timeout=5)
    assert not first.is_alive()


def test_a_look_that_fails_does_not_end_the_loop(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "_LOOK_S", 0.01)
    agent = Agent(engine, LocalExchange())
    agent.start()
    good = engine.observe

    def fails_once(max_events: int) -> bytes:
        engine.observe = good  # type: ignore[method-assign]
        raise RuntimeError

    engine.observe = fails_once  # type: ignore[method-assign]
    count = len(engine.looks)
    eventually(lambda: len(engine.looks) > count + 2)
    engine.released.set()
    agent.stop(1.0)


def test_a_report_says_by_digest_what_is_served_whatever_its_number() -> None:
    def snapshot(version: int, port: int) -> bytes:
        return encode_snapshot(version, Settings(), [b'{"edge_ports":%d}' % port])

    agent = Agent(FakeEngine(), LocalExchange())
    assert agent.observe().content is None, "what was on disk, nobody has said"
    contents = []
    for version, port in ((1, 22), (2, 23), (3, 22)):
        agent.apply(snapshot(version, port))
        contents.append(agent.observe().content)
    first, second, third = contents
    assert first == third != second
    assert first and len(first) == 64
