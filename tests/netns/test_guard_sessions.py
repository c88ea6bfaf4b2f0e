"""The guard knows the engine's two-way sessions: they keep all that they say while strangers share a budget, and
nothing of them stays when they end, when their worker hangs, or when the process is killed.

The engine alone, without a control plane: client - edge - origin, over veth. Strangers are 198.19.0.0/16.
"""

import itertools
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest
from support import frames
from support.bare_engine import BareEngine, application
from support.carried import CLIENT, EDGE, ORIGIN
from support.echo import start_echo
from support.edge import need_guard
from support.frames import Wire
from support.freeze import frozen, threads
from support.meanwhile import again_and_again
from support.namespaces import Namespaces, device_of, mac_of
from support.patience import eventually
from support.program import Programs

ECHO, GAME = 7000, 9801
APP = f"{1:032x}"
WORD = b"a word of somebody whom the origin has answered"
# One datagram of strangers in ten seconds: the first of a flood takes it.
BUDGET = [{"of": "packets", "ipv4": 0, "ipv6": 0, "per_s": 1, "burst": 1}]


class Session:
    """A client that stays."""

    def __init__(self, lab: "Lab", family: int) -> None:
        with lab.client:
            self.end = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
            self.end.connect((EDGE[family], GAME))
        lab.ends.append(self.end)

    def is_answered(self, within_s: float = 5.0) -> bool:
        self.end.settimeout(within_s)
        self.end.send(WORD)
        with suppress(TimeoutError):
            return self.end.recv(100) == WORD
        return False

    def become_two_way(self) -> "Session":
        assert self.is_answered()
        assert self.is_answered()
        return self


class Lab:
    def __init__(self, namespaces: Namespaces, programs: Programs, folder: Any) -> None:
        self.ends: list[socket.socket] = []
        self.client, self.edge, self.origin = (namespaces.make() for _ in range(3))
        namespaces.join(self.edge, self.client, 1)
        namespaces.join(self.edge, self.origin, 2)
        self.edge.ip("route", "add", "198.19.0.0/16", "via", CLIENT[4])
        for family in (4, 6):
            start_echo(programs, ORIGIN[family], ECHO, inside=self.origin)
        self.wire = Wire(self.client, device_of(self.client), mac_of(self.edge))
        self.engine = BareEngine(folder / "edge", self.edge, guard_idle_ms=500, fast_path="off").start()
        self.serve()

    def end(self) -> None:
        self.wire.close()
        self.engine.end()

    def serve(self, *more: Any, idle_ms: int = 60_000) -> None:
        games = [
            application(n, "udp", [EDGE[f]], GAME, ORIGIN[f], ECHO, udp_idle_timeout_ms=idle_ms, on_delete="close")
            for n, f in ((1, 4), (2, 6))
        ]
        report = self.engine.apply(*games, *more)
        assert {listener["carrier"] for listener in report["listeners"]} == {"engine"}, report

    def hold(self) -> None:
        holds = [{"application": f"{n:032x}", "rates": BUDGET} for n in (1, 2)]
        assert self.engine.mitigate(holds=holds) == {"is_attached": True, "refused": {}}

    def guard(self) -> Any:
        return self.engine.call("observe", 10_000)["guard"]

    def known(self) -> int:
        found: int = self.guard()["sessions"]
        return found

    def dropped(self) -> int:
        found = next(at for at in self.engine.look()["applications"] if at["application"] == APP)
        return int(found["packets"].get("rate", 0))

    def shoot(self, count: int = 256, first: int = 0) -> None:
        numbers = range(first, first + count)
        self.wire.send(frames.udp(frames.stranger(number), (EDGE[4], GAME), b"x" * 72) for number in numbers)

    def under_fire(self) -> AbstractContextManager[None]:
        firsts = itertools.count(step=256)
        return again_and_again(lambda: self.shoot(first=next(firsts)))


@pytest.fixture(scope="module")
def whole(namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_guard()
    made = Lab(namespaces, module_programs, tmp_path_factory.mktemp("edge"))
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def lab(whole: Lab) -> Iterator[Lab]:
    yield whole
    while whole.ends:
        whole.ends.pop().close()
    whole.engine.mitigate()
    whole.engine.apply()  # which ends all sessions
    whole.serve()
    eventually(lambda: whole.known() == 0 and not whole.engine.look()["is_attached"])


def test_a_two_way_session_keeps_all_it_says_under_a_flood_that_has_used_up_the_budget(lab: Lab) -> None:
    sessions = [Session(lab, family).become_two_way() for family in (4, 6)]
    half = Session(lab, 4)
    assert half.is_answered()  # and says nothing more: it has proven nothing
    assert lab.known() == 0, "while packets are not judged nobody wants to know"
    lab.hold()
    assert lab.known() == 2
    with lab.under_fire():
        eventually(lambda: lab.dropped() > 1_000)
        assert all(session.is_answered() for session in sessions for _ in range(200))
        assert not Session(lab, 4).is_answered(within_s=0.3), "there is no room for who is new"
        assert not half.is_answered(within_s=0.3)
    lab.engine.mitigate()
    eventually(lambda: not lab.engine.look()["is_attached"])
    assert lab.known() == 0
    assert all(session.is_answered() for session in sessions)


def test_who_is_new_gets_in_by_asking_again_while_a_flood_has_used_up_the_budget(lab: Lab) -> None:
    """As QUIC, RakNet and resolvers do; who forges addresses does not."""
    spared = [{**BUDGET[0], "per_s": 20, "burst": 20, "spares_returning": True}]
    lab.engine.mitigate(holds=[{"application": APP, "rates": spared}])
    with lab.under_fire():
        eventually(lambda: lab.dropped() > 1_000)
        for _ in range(5):
            new = Session(lab, 4)
            assert any(new.is_answered(within_s=1.0) for _ in range(5))
            assert all(new.become_two_way().is_answered(within_s=1.0) for _ in range(20)), "it stays"


def test_who_becomes_two_way_while_packets_are_judged_is_known_at_once(lab: Lab) -> None:
    lab.engine.mitigate(is_watching=True)
    session = Session(lab, 4).become_two_way()
    assert lab.known() == 1
    lab.hold()
    lab.shoot()
    assert all(session.is_answered() for _ in range(50))
    samples = lab.engine.look()["samples"]
    assert samples == []  # nobody asked for any
    holds = [{"application": APP, "rates": BUDGET}]
    lab.engine.mitigate(sample_every=1, holds=holds)
    assert session.is_answered()
    assert {s["verdict"] for s in lab.engine.look()["samples"] if s["is_established"]} == {"established"}


def test_a_session_that_has_ended_is_a_stranger_again(lab: Lab) -> None:
    lab.serve(idle_ms=1_000)
    session = Session(lab, 4).become_two_way()
    lab.hold()
    lab.shoot()
    assert session.is_answered() and lab.known() == 1
    eventually(lambda: lab.known() == 0)  # silent for a second
    lab.shoot()
    assert not session.is_answered(within_s=0.3)


def test_sessions_of_an_application_that_is_deleted_are_forgotten(lab: Lab) -> None:
    for family in (4, 6):
        Session(lab, family).become_two_way()
    lab.hold()
    assert lab.known() == 2
    lab.engine.apply()
    assert lab.known() == 0


def test_kill_9_leaves_nothing_of_its_sessions_for_the_next_process(lab: Lab) -> None:
    session = Session(lab, 4).become_two_way()
    lab.hold()
    lab.shoot()
    assert session.is_answered()
    lab.engine.kill()
    lab.engine.start()
    lab.serve()
    eventually(lambda: lab.engine.look()["is_attached"])
    assert lab.known() == 0
    lab.shoot()
    assert not session.is_answered(within_s=0.3), "the next process never heard of it"


def test_what_a_worker_that_hangs_had_is_forgotten_and_its_successor_is_heard(lab: Lab) -> None:
    session = Session(lab, 4).become_two_way()
    lab.engine.mitigate(is_watching=True)
    assert lab.known() == 1
    [thread] = threads(lab.engine.pid, "edge-worker-0")
    with frozen(thread):
        eventually(lambda: lab.engine.call("observe", 10_000)["workers_replaced_total"] > 0)
        eventually(lambda: lab.known() == 0)
        lab.hold()
        lab.shoot()
        assert not session.is_answered(within_s=0.3), "who had it is gone"
        lab.engine.mitigate(is_watching=True)
        again = Session(lab, 4).become_two_way()
        assert lab.known() == 1
        lab.hold()
        lab.shoot()
        assert all(again.is_answered() for _ in range(20))
