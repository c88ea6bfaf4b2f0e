"""The alarms of an edge: said once, over well below where they began."""

import logging
from typing import Any

import msgspec
import pytest

from causeway.edge.alarms import Alarms, Line
from causeway.model.report import Report, decode_report

QUIET: dict[str, Any] = {
    "version": 1, "is_draining": False, "uptime_ms": 1, "workers": 1, "open_files": {"used": 1, "limit": 2},
    "totals": {}, "applications": [], "refused": [], "events": [], "events_lost": 0, "rejected_snapshots": [],
}  # fmt: skip


def report(**changes: object) -> Report:
    return decode_report(msgspec.json.encode(QUIET | changes))


def ports(used: int, origin: str | None = "192.0.2.1:22") -> dict[str, object]:
    protocol = "tcp" if origin else "udp"
    return {"protocol": protocol, "origin": origin, "used": used, "available": 200, "share": used / 200}


PORTS = [  # in use of 200, one report after another       what is said of each
    ([100, 159, 160, 180, 200], [None, None, "160 of 200", None, None]),
    ([160, 150, 160, 141, 140, 0], [True, None, None, None, "free again", None]),
    ([170, 0, 170], [True, "free again", True]),
]


@pytest.mark.parametrize(("used", "said"), PORTS)
def test_source_ports_are_told_at_80_percent_and_again_below_70(used: list[int], said: list[object]) -> None:
    alarms = Alarms()
    for count, expected in zip(used, said, strict=True):
        lines = alarms.lines(report(port_pressure=[ports(count)] if count else []))
        assert bool(lines) == bool(expected), (count, lines)
        if isinstance(expected, str):
            assert expected in lines[0].text and "tcp to 192.0.2.1:22" in lines[0].text


def test_the_line_says_what_to_do_and_udp_is_one_pool() -> None:
    [line] = Alarms().lines(report(port_pressure=[ports(190, origin=None)]))
    assert line == Line(
        logging.WARNING,
        "udp to all origins: 190 of 200 source ports (95%) are in use: "
        "give more source addresses (--source-ip) or widen net.ipv4.ip_local_port_range",
    )


def test_a_worker_that_was_replaced_is_an_error_told_once() -> None:
    alarms = Alarms()
    said = [alarms.lines(report(workers_replaced_total=count)) for count in (0, 1, 1, 3)]
    assert [bool(lines) for lines in said] == [False, True, False, True]
    assert said[1][0].level == logging.ERROR
    assert said[3][0].text.startswith("2 worker(s) of the edge hung and were replaced, 3 since the start")


MEMORY = [  # second, full, refused or cut so far         what is said
    (0, False, 0, None),
    (1, True, 0, "250 of 256 MiB"),
    (2, True, 9, None),
    (3, False, 9, None),
    (4, True, 9, None),
    (8, False, 10, None),
    (12, False, 10, None),
    (13, False, 10, "10 connection(s)"),
    (30, False, 10, None),
    (40, False, 13, "is short"),  # between two reports
    (45, False, 13, "3 connection(s)"),
]


def test_short_memory_is_told_when_it_begins_and_what_it_cost_when_it_is_over() -> None:
    alarms = Alarms()
    for second, is_full, shed, expected in MEMORY:
        memory = {"used_bytes": 250 << 20, "limit_bytes": 256 << 20, "is_full": is_full}
        lines = alarms.lines(report(uptime_ms=second * 1000, memory=memory, totals={"shed_total": shed}))
        assert len(lines) == (expected is not None), (second, lines)
        if expected:
            assert expected in lines[0].text


def test_without_a_limit_there_is_nothing_to_say_of_memory() -> None:
    assert not Alarms().lines(report(memory=None))


def attack(number: int = 1, **changes: object) -> dict[str, object]:
    known = {"application": "a" * 32, "kind": "udp", "vector": "UDP to 53", "started_unix_ms": 1_000}
    return {"id": f"{number:032x}", **known, **changes}


def held(*ids: str, action: str = "drop") -> dict[str, object]:
    rules = [
        {
            "rule": {"id": name, "application": "a" * 32, "action": action, "match": {"protocol": 17}},
            "attack": "b" * 32,
            "made_unix_ms": 1_000,
        }
        for name in ids
    ]
    return {"is_enabled": True, "is_attached": True, "rules": rules}


def test_an_attack_is_told_when_it_begins_and_when_it_ends() -> None:
    alarms = Alarms()
    said = [
        [line.text for line in alarms.lines(report(attacks=attacks))]
        for attacks in (
            [],
            [attack()],
            [attack(packets_dropped=7)],
            [attack(mitigated_after_ms=1_800)],
            [attack(mitigated_after_ms=1_800)],
            [attack(ended_unix_ms=13_000, packets_dropped=9_000, packets_passed=3, peak_packets_per_s=2_000)],
            [attack(ended_unix_ms=13_000)],
            [],
        )
    ]
    name = f"attack {1:032x} on application {'a' * 32}"
    assert said == [
        [],
        [f"{name}: udp, UDP to 53"],
        [],
        [f"{name} is answered, after 1800 ms"],
        [],
        [f"{name} is over: 12 s, at most 2,000 packets/s, 9,000 packets dropped, 3 let in"],
        [],
        [],
    ]


def test_one_that_came_and_went_between_two_looks_is_told_whole() -> None:
    alarms = Alarms()
    lines = alarms.lines(report(attacks=[attack(ended_unix_ms=2_000)]))
    assert [line.level for line in lines] == [logging.WARNING] * 2
    assert not alarms.lines(report(attacks=[attack(ended_unix_ms=2_000)]))


def test_an_attack_on_no_application_in_particular_is_one_on_the_edge() -> None:
    [line] = Alarms().lines(report(attacks=[attack(application="*")]))
    assert line.text == f"attack {1:032x} on the whole edge: udp, UDP to 53"


def test_a_rule_is_told_in_words_when_it_comes_into_force() -> None:
    alarms = Alarms()
    [line] = alarms.lines(report(mitigation=held("r1")))
    assert line == Line(logging.WARNING, f"attack {'b' * 32}: rule r1 drops UDP")
    assert [line.text[-11:] for line in alarms.lines(report(mitigation=held("r1", "r2")))] == ["2 drops UDP"]
    assert not alarms.lines(report(mitigation=held()))
    assert not alarms.lines(report(mitigation=held("r3", action="watch"))), "it is on trial"
    assert len(alarms.lines(report(mitigation=held("r3")))) == 1


def test_however_much_happens_little_is_said_in_a_second() -> None:
    alarms = Alarms()
    said = []
    for look in range(50):  # in one second, each with attacks and rules that nobody has heard of
        many = [attack(number) for number in range(100 * look, 100 * look + 100)]
        rules = held(*(f"r{look}-{number}" for number in range(100)))
        said += alarms.lines(report(attacks=many, mitigation=rules, uptime_ms=5_000 + look))
    assert len(said) == 20
    assert said[-1].text.endswith("see causeway attacks and causeway mitigation")
    again = alarms.lines(report(attacks=[attack(9_999)], uptime_ms=7_000))
    assert [line.text[7:39] for line in again] == [f"{9_999:032x}"]
