"""Which of several control nodes leads: the rules as a table, and the time of a lease as it is counted."""

import pytest

from causeway.control.nodes import LEASE_S, Hold, Move, Standing, next_move
from causeway.store.leases import Lease, Node

ABLE = Node("fra", "http://fra", 0.5, True, "1.0")
APART = Node("fra", "http://fra", 0.5, False, "1.0")
GONE = Node("fra", "http://fra", LEASE_S + 1, True, "1.0")


def lease(left_s: float, token: int = 7) -> Lease:
    return Lease(token, "ams", "http://ams", left_s, 0, "")


CASES = [
    # what is found                                 the lease      others   held  off the exchange for   move
    ("it is somebody's", lease(3.0), [ABLE], None, 0.0, Move.FOLLOW),
    ("it is over", lease(-0.1), [ABLE], None, 0.0, Move.TAKE),
    ("it is over, and nobody else is there", lease(-0.1), [], None, 60.0, Move.TAKE),
    ("it is over, and another one is better off", lease(-0.1), [ABLE], None, 0.1, Move.FOLLOW),
    ("it is over, and the other one is no better off", lease(-0.1), [APART], None, 60.0, Move.TAKE),
    ("it is over, and the other one is gone", lease(-0.1), [GONE], None, 60.0, Move.TAKE),
    ("it is ours", lease(3.0), [ABLE], 7, 0.0, Move.KEEP),
    ("it is ours, if late", lease(-0.1), [ABLE], 7, 0.0, Move.KEEP),
    ("it was ours", lease(3.0, token=8), [ABLE], 7, 0.0, Move.FOLLOW),
    ("it was ours, and is over", lease(-0.1, token=8), [ABLE], 7, 0.0, Move.TAKE),
    ("ours, for a moment without the exchange", lease(3.0), [ABLE], 7, LEASE_S - 0.1, Move.KEEP),
    ("ours, without the exchange, which another has", lease(3.0), [ABLE], 7, LEASE_S, Move.GIVE_UP),
    ("ours, without the exchange, which nobody has", lease(3.0), [APART], 7, 60.0, Move.KEEP),
    ("ours, and nobody else is there", lease(3.0), [GONE], 7, 60.0, Move.KEEP),
]


@pytest.mark.parametrize(("found", "of", "others", "held", "apart_s", "move"), CASES, ids=[case[0] for case in CASES])
def test_the_next_move(found: str, of: Lease, others: list[Node], held: int | None, apart_s: float, move: Move) -> None:
    assert next_move(of, others, held, apart_s) is move, found


def test_a_leader_stops_before_the_database_gives_its_lease_to_another() -> None:
    asked_s = 100.0
    hold = Hold.of(7, asked_s)
    assert hold.token == 7
    assert asked_s < hold.until_s < asked_s + LEASE_S, "however long the answer took"


def test_who_leads_is_not_known_any_more_when_the_lease_is_over_and_nobody_has_looked() -> None:
    standing = Standing(lease(3.0), (), at_s=100.0)
    assert standing.leader(102.9) == lease(3.0)
    assert standing.leader(103.1) is None
