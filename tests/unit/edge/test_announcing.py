"""Health in, announcements out, with a clock of the test's own."""

from ipaddress import ip_address, ip_network

import msgspec
import pytest

from causeway.edge.announcing import BETTER_AFTER_S, FULL_AFTER_S, WELL_AFTER_S, Announcing, Health, Level
from causeway.model.anycast import GRACEFUL_SHUTDOWN, LAST_RESORT_MED, Policy, Terms
from causeway.model.report import decode_report

FOUR, SIX = ip_network("198.18.100.0/24"), ip_network("2001:db8:7::/48")
USUAL = Terms(((64512, 100),), 10)
WELL = Health(frozenset({ip_address("198.18.100.7"), ip_address("2001:db8:7::1")}))
FULL = Health(WELL.served, is_full=True)
NOBODY = Health()


@pytest.fixture
def announcing() -> Announcing:
    return Announcing(Policy((FOUR, SIX), USUAL))


def test_what_is_served_is_announced_at_once(announcing: Announcing) -> None:
    assert announcing.step(NOBODY, 0) == {}
    assert announcing.step(WELL, 0.1) == {FOUR: USUAL, SIX: USUAL}


def test_a_prefix_without_anybody_served_is_not_announced(announcing: Announcing) -> None:
    assert announcing.step(Health(frozenset({ip_address("198.18.100.9")})), 0) == {FOUR: USUAL}
    assert announcing.step(Health(frozenset({ip_address("198.18.101.9")})), 20) == {}


def test_an_edge_on_all_addresses_serves_every_prefix_of_the_family(announcing: Announcing) -> None:
    assert announcing.step(Health(frozenset({ip_address("0.0.0.0")})), 0) == {FOUR: USUAL}


def test_worse_news_goes_at_once_and_better_news_waits(announcing: Announcing) -> None:
    announcing.step(WELL, 0)
    assert announcing.step(NOBODY, 1) == {}
    assert announcing.step(WELL, 1 + BETTER_AFTER_S - 0.1) == {}
    assert announcing.step(WELL, 1 + BETTER_AFTER_S) == {FOUR: USUAL, SIX: USUAL}


def test_an_edge_that_flaps_is_announced_once_in_ten_seconds(announcing: Announcing) -> None:
    changes, before = 0, announcing.step(WELL, 0)
    for tenth in range(1, 1000):
        now = announcing.step(WELL if tenth % 20 < 10 else NOBODY, tenth / 10)
        changes += bool(now) and not before
        before = now
    assert 0 < changes <= 10


def test_who_leaves_is_a_last_resort_first_and_withdrawn_then(announcing: Announcing) -> None:
    announcing.step(WELL, 0)
    announcing.leave(FOUR, 1)
    leaving = Terms((GRACEFUL_SHUTDOWN,), LAST_RESORT_MED)
    assert announcing.step(WELL, 1) == {FOUR: leaving, SIX: USUAL}
    assert announcing.step(WELL, 3.9) == {FOUR: leaving, SIX: USUAL}
    assert announcing.step(WELL, 4) == {SIX: USUAL}
    assert not announcing.has_left(FOUR, 4.9)
    assert announcing.has_left(FOUR, 5)
    announcing.stay(FOUR)
    assert announcing.step(WELL, 13.9) == {SIX: USUAL}
    assert announcing.step(WELL, 14) == {FOUR: USUAL, SIX: USUAL}


def test_an_edge_short_of_memory_is_a_last_resort_and_never_withdrawn(announcing: Announcing) -> None:
    announcing.step(WELL, 0)
    for second in range(int(FULL_AFTER_S)):
        assert announcing.step(FULL, 1 + second)[FOUR] == USUAL
    full_s = 1 + FULL_AFTER_S
    assert announcing.step(FULL, full_s)[FOUR] == announcing.policy.leaving
    for second in range(1, 600):
        announcing.step(FULL, full_s + second)
        assert announcing.level(FOUR) is Level.LEAVING
    well_s = full_s + 600
    announcing.step(WELL, well_s)
    assert announcing.step(WELL, well_s + WELL_AFTER_S - 0.1)[FOUR] == announcing.policy.leaving
    assert announcing.step(WELL, well_s + WELL_AFTER_S)[FOUR] == USUAL


def report(version: int = 3, refused: list[dict[str, object]] | None = None) -> bytes:
    at = [{"application": "a", "address": "198.18.100.7", "carrier": "engine"}]
    at.append({"application": "b", "address": "2001:db8:7::1", "carrier": "kernel"})
    known = {"version": version, "is_draining": False, "uptime_ms": 1, "workers": 1, "events_lost": 0, "events": []}
    known |= {"totals": {}, "applications": [], "rejected_snapshots": [], "open_files": {"used": 1, "limit": 2}}
    memory = {"used_bytes": 9, "limit_bytes": 9, "is_full": True}
    return msgspec.json.encode(known | {"refused": refused or [], "carriers": at, "memory": memory})


def test_an_address_is_served_where_an_application_has_its_port() -> None:
    assert Health.of(decode_report(report())) == Health(WELL.served, is_full=True)
    taken = {"application": "a", "protocol": "tcp", "address": "198.18.100.7", "ports": {"first": 1, "last": 1}}
    health = Health.of(decode_report(report(refused=[{**taken, "state": "refused"}])))
    assert health.served == {ip_address("2001:db8:7::1")}


def test_an_edge_without_a_snapshot_serves_nobody() -> None:
    assert Health.of(decode_report(report(version=0))) == NOBODY
