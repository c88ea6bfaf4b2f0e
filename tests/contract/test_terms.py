"""Two controls on one exchange: what a later term has left, an earlier one cannot replace, however late it comes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.control import History
from support.nats import NatsServer
from support.patience import eventually
from support.program import Programs
from test_exchange import SITE, Scripted

from causeway.exchange.bus import EdgeRefused
from causeway.exchange.link import Where
from causeway.exchange.nats_control import NatsControl
from causeway.exchange.nats_edge import NatsEdge

EDGE = "fra-1"


class Control:
    """On the exchange, in the term that a test says; None: another one leads."""

    def __init__(self, url: str, term: int | None) -> None:
        self.term = term
        is_connected = threading.Event()
        self.exchange = NatsControl(Where(url), is_connected.set, term=lambda: self.term)
        self.exchange.start()
        assert is_connected.wait(10)

    def put(self, version: int) -> str:
        """What became of a snapshot: applied, or the code of why not."""
        try:
            return self.exchange.edge(EDGE).deliver(b'{"version": %d}' % version).outcome
        except EdgeRefused as error:
            return error.code

    def before_its_next_put(self, act: Callable[[], object]) -> None:
        """Once it has looked what is there: as if it stood still meanwhile."""
        lead = self.exchange._lead
        is_seen = lead.is_seen

        def stand_still(term: int) -> None:
            is_seen(term)
            lead.is_seen = is_seen  # type: ignore[method-assign]
            act()

        lead.is_seen = stand_still  # type: ignore[method-assign]


@pytest.fixture
def server(programs: Programs) -> NatsServer:
    return NatsServer(programs, programs.folder / "store").start()


@pytest.fixture
def control(server: NatsServer) -> Iterator[Callable[[int | None], Control]]:
    with ExitStack() as made:

        def make(term: int | None) -> Control:
            one = Control(server.url, term)
            made.callback(one.exchange.stop)
            return one

        yield make


@pytest.fixture
def edge(server: NatsServer) -> Iterator[Scripted]:
    side = NatsEdge(Where(server.url), EDGE, SITE)
    edge = Scripted(side)
    side.attach(edge)
    eventually(lambda: side.is_connected)
    yield edge
    side.stop()


Make = Callable[[int | None], Control]


def test_who_does_not_lead_says_nothing_to_edges(control: Make, edge: Scripted) -> None:
    follower = control(None)
    assert follower.put(1) == "not_leading"
    for act in (
        lambda: follower.exchange.edge(EDGE).steer(b"{}"),
        lambda: follower.exchange.edge(EDGE).put_names(b"{}"),
        lambda: follower.exchange.edge(EDGE).put_places(b""),
        lambda: follower.exchange.edge(EDGE).put_blob("list", b"", overlaps=True, private=True),
    ):
        with pytest.raises(EdgeRefused, match="does not lead"):
            act()
    assert edge.snapshots == []


def test_an_earlier_term_cannot_replace_what_a_later_one_has_left(
    server: NatsServer, control: Make, edge: Scripted
) -> None:
    before, after = control(1), control(2)
    with History(server.url) as history:
        assert [before.put(1), after.put(2), before.put(3), after.put(4)] == [
            "applied", "applied", "not_leading", "applied"
        ]  # fmt: skip
        eventually(lambda: len(history.puts) == 3)
        history.check(EDGE)
    assert before.exchange.newest_term == 2


def test_one_that_stood_still_between_its_look_and_its_put_replaces_nothing(
    server: NatsServer, control: Make, edge: Scripted
) -> None:
    before, after = control(1), control(2)
    before.put(1)
    before.before_its_next_put(lambda: after.put(2))
    with History(server.url) as history:
        assert before.put(3) == "not_leading"
        assert after.put(4) == "applied"
        eventually(lambda: history.of(EDGE)[-1] == (2, 4))
        history.check(EDGE)
    assert edge.snapshots == [b'{"version": 1}', b'{"version": 2}', b'{"version": 4}']


def test_one_that_stood_still_before_its_first_put_makes_none_either(control: Make, edge: Scripted) -> None:
    before, after = control(1), control(2)
    before.before_its_next_put(lambda: after.put(2))
    assert before.put(1) == "not_leading"
    assert edge.snapshots == [b'{"version": 2}']


def test_what_was_made_in_a_term_before_is_not_put_in_a_later_one_of_the_same_control(
    control: Make, edge: Scripted
) -> None:
    again = control(3)
    with pytest.raises(EdgeRefused, match="does not lead"):
        again.exchange.edge(EDGE).deliver(b'{"version": 1}', 1)
    assert edge.snapshots == []


def test_an_edge_tells_the_latest_term_and_refuses_an_earlier_one_when_the_exchange_has_lost_it(
    server: NatsServer, control: Make, edge: Scripted
) -> None:
    after = control(7)
    assert [after.put(0), after.put(1)] == ["applied", "applied"]
    after.exchange.stop()
    server.kill()
    for file in sorted(server.store.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    server.start()
    before = control(2)
    eventually(lambda: edge.observe() and before.exchange.newest_term == 7, 20)
    assert before.put(2) == "not_leading"
    before.term = 8
    assert before.put(3) == "applied"
    assert edge.snapshots[1:] == [b'{"version": 1}', b'{"version": 3}']


def test_an_edge_that_tells_an_absurd_term_is_not_believed(control: Make, edge: Scripted) -> None:
    leader = control(3)
    edge._side._term = 1 << 62  # type: ignore[attr-defined]
    eventually(lambda: edge.observe() and leader.exchange.edges())
    leader.exchange.edge(EDGE).fresh_report()  # what it has said before has arrived
    assert leader.exchange.newest_term == 0
    edge._side._term = 9  # type: ignore[attr-defined]
    eventually(lambda: edge.observe() and leader.exchange.newest_term == 9)


def test_control_that_is_alone_puts_no_term_there_and_is_followed_by_one_of_several(
    server: NatsServer, control: Make, edge: Scripted
) -> None:
    with History(server.url) as history:
        assert control(0).put(1) == "applied"
        assert control(1).put(2) == "applied"
        eventually(lambda: history.of(EDGE) == [(0, 1), (1, 2)])
