"""Many sources of one kind of attack on one application are one attack, for as long as any of them goes on."""

import msgspec

from causeway.edge.episodes import Episodes
from causeway.model.report import Detection


def row(number: int, **changes: object) -> Detection:
    base = Detection(
        id=f"{number:032x}",
        application="a" * 32,
        kind="connection_flood",
        source=f"198.51.100.{number}/32",
        started_unix_ms=1_000,
        last_unix_ms=5_000,
        count=100 + number,
        until_unix_ms=65_000,
    )
    return msgspec.structs.replace(base, **changes)


def test_sources_that_come_one_after_the_other_are_one_attack_with_what_all_of_them_did() -> None:
    episodes = Episodes()
    [alone] = episodes.attacks([row(1)], 5_000)
    assert (alone.id, alone.kind, alone.vector) == (row(1).id, "connection_flood", "connections from 198.51.100.1/32")
    assert (alone.mitigated_after_ms, alone.ended_unix_ms, alone.packets_dropped) == (0, None, 101)

    [both] = episodes.attacks([row(2, last_unix_ms=9_000)], 9_000)  # the first has left the engine's list
    assert both.id == alone.id
    assert both.vector == "connections from 2 sources, most of them from 198.51.100.2/32"
    assert both.packets_dropped == 101 + 102


def test_an_attack_begins_with_the_first_of_its_connections_and_its_peak_is_of_all_sources_together() -> None:
    episodes = Episodes()
    first = row(1, began_unix_ms=400, per_s=200)
    [alone] = episodes.attacks([first], 5_000)
    assert (alone.started_unix_ms, alone.detected_after_ms, alone.mitigated_after_ms) == (400, 600, 600)
    assert alone.peak_packets_per_s == 200
    episodes.attacks([first, row(2, began_unix_ms=500, started_unix_ms=1_200, per_s=150)], 5_000)
    late = row(3, began_unix_ms=9_000, started_unix_ms=10_000, last_unix_ms=10_000, per_s=100)
    [all_three] = episodes.attacks([first, late], 10_000)
    assert all_three.peak_packets_per_s == 350, "the third one came when the others were gone"
    assert (all_three.started_unix_ms, all_three.mitigated_after_ms) == (400, 600)


def test_kinds_and_applications_are_attacks_of_their_own() -> None:
    rows = [row(1), row(2, kind="port_scan", until_unix_ms=None), row(3, application="b" * 32)]
    told = Episodes().attacks(rows, 5_000)
    assert [(attack.application[0], attack.kind) for attack in told] == [
        ("a", "connection_flood"),
        ("a", "port_scan"),
        ("b", "connection_flood"),
    ]
    assert told[1].mitigated_after_ms is None, "it is told and not banned"


def test_an_attack_is_over_two_minutes_after_its_last_connection_and_the_next_one_is_another() -> None:
    episodes = Episodes()
    episodes.attacks([row(1)], 5_000)
    [over] = episodes.attacks([row(1)], 125_001)
    assert over.ended_unix_ms == 5_000
    told = episodes.attacks([row(1), row(2, started_unix_ms=200_000, last_unix_ms=200_000)], 200_000)
    assert [attack.id for attack in told] == [row(1).id, row(2).id]
    assert [attack.ended_unix_ms for attack in told] == [5_000, None]
