"""Attacks in the database: saved again as they go on, found by what is asked, never more than the newest."""

from pathlib import Path
from typing import Any

import pytest

from causeway.model.mitigation import Attack, Match, Rule
from causeway.store import attacks, switches
from causeway.store.attacks import AttackFilter
from causeway.store.database import Database, StoreError

GAME, SSH = "a" * 32, "b" * 32


def attack(number: int, **changes: Any) -> Attack:
    known = {"application": GAME, "kind": "udp", "vector": "UDP to 53", "started_unix_ms": 1000 * number} | changes
    return Attack(id=f"{number:032x}", **known)


def test_an_attack_is_one_row_however_often_it_is_saved_and_comes_back_whole(database: Database) -> None:
    rule = Rule("r1", GAME, "drop", Match(protocol=17, source="198.51.100.0/24", source_ports=(53, 53)), 5_000)
    whole = attack(1, rules=[rule], evidence=["00ff"], false_positive_bound=0.0001, good_samples=30_000)
    with database.write() as connection:
        attacks.save(connection, attack(1), 1)
        attacks.save(connection, whole, 2)
        assert attacks.find(connection, whole.id) == whole
        assert attacks.page(connection, AttackFilter(), skip=0, most=10) == ([whole], 1)
        assert attacks.find(connection, "f" * 32) is None


ASKED = [  # filter                                           numbers found, the newest first
    ({}, [4, 3, 2, 1]),
    ({"application": SSH}, [3]),
    ({"is_active": True}, [4, 1]),
    ({"is_active": False}, [3, 2]),
    ({"since_unix_ms": 2_500}, [4, 3, 1]),
    ({"since_unix_ms": 3_001, "is_active": False}, []),
    ({"application": SSH, "is_active": True}, []),
]


@pytest.mark.parametrize(("asked", "found"), ASKED)
def test_what_is_asked_is_found(database: Database, asked: dict[str, Any], found: list[int]) -> None:
    with database.write() as connection:
        known = (
            attack(2, ended_unix_ms=2_400),
            attack(1),
            attack(4),
            attack(3, ended_unix_ms=3_000, application=SSH),
        )
        for one in known:
            attacks.save(connection, one, 5_000)
        page, total = attacks.page(connection, AttackFilter(**asked), skip=0, most=10)
        assert ([int(one.id, 16) for one in page], total) == (found, len(found))
        second, total = attacks.page(connection, AttackFilter(**asked), skip=1, most=1)
        assert ([int(one.id, 16) for one in second], total) == (found[1:2], len(found))


def test_only_the_newest_are_kept(database: Database) -> None:
    with database.write() as connection:
        for number in (5, 3, 1, 2, 4):
            attacks.save(connection, attack(number), 1)
        attacks.keep_newest(connection, 3)
        assert [int(one.id, 16) for one in attacks.page(connection, AttackFilter(), skip=0, most=9)[0]] == [5, 4, 3]


def test_an_attack_that_nobody_tells_of_any_more_ended_where_it_was_last_seen(database: Database) -> None:
    with database.write() as connection:
        attacks.save(connection, attack(1), 7_000)
        attacks.save(connection, attack(2, ended_unix_ms=2_500), 9_000)
        for number in (1, 2, 3):
            attacks.end_unseen(connection, f"{number:032x}")
        ended = [one.ended_unix_ms for one in attacks.page(connection, AttackFilter(), skip=0, most=9)[0]]
        assert (ended, attacks.active(connection)) == ([2_500, 7_000], [])


def test_a_row_that_somebody_else_wrote_is_said_so(database: Database) -> None:
    with database.write() as connection:
        attacks.save(connection, attack(1), 1)
        connection.exec_driver_sql("update attacks set body = '{}'")
    with pytest.raises(StoreError, match=f"attack {1:032x} cannot be read"), database.read() as connection:
        attacks.find(connection, f"{1:032x}")


def test_mitigation_is_on_until_somebody_switches_it_off(database: Database, tmp_path: Path) -> None:
    seen = []
    for is_on in (False, False, True):
        with database.write() as connection:
            seen.append(switches.is_mitigation_on(connection))
            switches.set_mitigation(connection, is_on)
    assert seen == [True, False, False]
