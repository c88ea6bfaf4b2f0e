"""The thread that drives mitigation on an edge: policy at once, trouble survived, what is in force taken up."""

import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from causeway.edge.mitigation import MOST_ATTACKS, Mitigation, Policy, policy_of
from causeway.model.mitigation import Guarded, Hold, Look, Plan, PlanReport, Signals, System, decode_plan


class FloodedEngine:
    """An engine whose only application gets SYNs that nobody completes, as many as `per_s`."""

    def __init__(self, per_s: int = 0) -> None:
        self.per_s, self.began_s = per_s, time.monotonic()
        self.opened = 0.0
        self.plan, self.plans = Plan(), list[Plan]()
        self.fails = False
        self.looks = 0

    def guard_look(self, max_samples: int) -> bytes:
        self.looks += 1
        if self.fails:
            raise RuntimeError("the engine is out of sorts")
        now_s = time.monotonic()
        self.opened += self.per_s * (now_s - self.began_s)
        self.began_s = now_s
        signals = Signals(opened=int(self.opened))
        flooded = Guarded("web", "tcp", signals=signals)
        return msgspec.json.encode(Look(int(now_s * 1_000), self.plan != Plan(), None, [flooded], System()))

    def mitigate(self, plan: bytes) -> bytes:
        self.plan = decode_plan(plan)
        self.plans.append(self.plan)
        return msgspec.json.encode(PlanReport(True, {"web": "no room"} if self.plan.holds else {}))

    def mitigation(self) -> bytes:
        return msgspec.json.encode(self.plan)


@pytest.fixture
def begun() -> Iterator[Callable[[FloodedEngine], Mitigation]]:
    started: list[Mitigation] = []

    def begin(engine: FloodedEngine) -> Mitigation:
        mitigation = Mitigation(engine)
        mitigation.start()
        started.append(mitigation)
        return mitigation

    yield begin
    for mitigation in started:
        mitigation.stop()


def eventually(claim: Callable[[], object], within_s: float = 10.0) -> float:
    began = time.monotonic()
    while not claim():
        assert time.monotonic() - began < within_s
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_flood_is_answered_within_a_second_and_told(begun: Callable[[FloodedEngine], Mitigation]) -> None:
    engine = FloodedEngine()
    mitigation = begun(engine)
    mitigation.set_policy(Policy())
    eventually(lambda: engine.looks > 3)
    engine.per_s = 1_000_000
    assert eventually(lambda: engine.plan.holds) <= 1.0
    eventually(lambda: mitigation.told.state and mitigation.told.state.refused)
    assert mitigation.told.state is not None
    assert [hold.application for hold in mitigation.told.state.holds] == ["web"]
    [attack] = mitigation.told.attacks
    assert attack.kind == "spoofed_syn" or attack.kind == "syn"


def test_the_switch_ends_everything_before_it_returns(begun: Callable[[FloodedEngine], Mitigation]) -> None:
    engine = FloodedEngine(1_000_000)
    mitigation = begun(engine)
    mitigation.set_policy(Policy())
    eventually(lambda: engine.plan.holds)
    began = time.monotonic()
    mitigation.set_policy(Policy(is_enabled=False))
    assert engine.plan == Plan() and time.monotonic() - began < 1.0
    assert mitigation.told.state is not None and not mitigation.told.state.is_enabled
    looked = engine.looks
    eventually(lambda: engine.looks > looked + 3)
    assert engine.plan == Plan()


def test_an_application_that_is_switched_off_is_left_alone_at_once(
    begun: Callable[[FloodedEngine], Mitigation],
) -> None:
    engine = FloodedEngine(1_000_000)
    mitigation = begun(engine)
    mitigation.set_policy(Policy())
    eventually(lambda: engine.plan.holds)
    mitigation.set_policy(Policy(sensitivities={"web": "off"}))
    assert engine.plan.holds == []


def test_trouble_is_survived(begun: Callable[[FloodedEngine], Mitigation], caplog: pytest.LogCaptureFixture) -> None:
    engine = FloodedEngine()
    mitigation = begun(engine)
    mitigation.set_policy(Policy())
    engine.fails = True
    looked = engine.looks
    eventually(lambda: engine.looks > looked + 3)
    assert caplog.text.count("the edge goes on serving") == 1, "said once, not at every look"
    engine.fails, engine.per_s = False, 1_000_000
    eventually(lambda: engine.plan.holds)


def test_nothing_is_decided_before_a_policy_is_known(begun: Callable[[FloodedEngine], Mitigation]) -> None:
    engine = FloodedEngine(1_000_000)
    begun(engine)
    eventually(lambda: engine.looks > 3)
    assert engine.plans == []


def test_what_is_in_force_is_taken_up_and_not_ended(begun: Callable[[FloodedEngine], Mitigation]) -> None:
    engine = FloodedEngine()
    engine.plan = Plan(is_watching=True, sample_every=64, holds=[Hold("web", cookies=True)])
    mitigation = begun(engine)
    mitigation.set_policy(Policy())
    looked = engine.looks
    eventually(lambda: engine.looks > looked + 3)
    assert engine.plan.holds == [Hold("web", cookies=True)]


def test_it_ends_when_told_and_leaves_what_is_held(begun: Callable[[FloodedEngine], Mitigation]) -> None:
    engine = FloodedEngine(1_000_000)
    mitigation = begun(engine)
    mitigation.set_policy(Policy())
    eventually(lambda: engine.plan.holds)
    mitigation.stop()
    assert engine.plan.holds
    assert not any(thread.name == "edge-mitigate" for thread in threading.enumerate())


def test_attacks_that_are_kept_are_bounded() -> None:
    from causeway.model.mitigation import Attack

    mitigation = Mitigation(FloodedEngine())
    for number in range(MOST_ATTACKS + 50):
        mitigation._note(Attack(f"{number:032x}", "web", "syn", "", number))
    assert len(mitigation._attacks) == MOST_ATTACKS
    assert next(iter(mitigation._attacks.values())).started_unix_ms == 50


def test_a_snapshot_says_what_the_operator_wants() -> None:
    cases = [
        (b'{"applications":[],"settings":{}}', Policy()),
        (b'{"applications":[{"id":"a"}],"settings":{"mitigation":false},"format":1}', Policy(False)),
        (
            b'{"applications":[{"id":"a","mitigation":"off"},{"id":"b","mitigation":"medium"},{"id":"c"}]}',
            Policy(True, {"a": "off"}),
        ),
    ]
    for snapshot, policy in cases:
        assert policy_of(snapshot) == policy
