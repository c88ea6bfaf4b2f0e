"""Attacks as control keeps and tells them, and the switch: everywhere or nowhere, for good."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from test_change import World

from causeway.api.server import build
from causeway.control import mitigation
from causeway.control.attacks import Chronicle
from causeway.control.tokens import Keyring
from causeway.exchange.local import LocalExchange
from causeway.model.mitigation import Attack, Hold, Match, MitigationState, Rate, Rule, RuleState
from causeway.model.problem import Problem
from causeway.model.report import Report
from causeway.store.database import Database

TOKEN = "t" * 40
GONE = "e" * 32


class TellingExchange(LocalExchange):
    """As if the agent had put these into its reports."""

    def __init__(self) -> None:
        super().__init__()
        self.attacks: list[Attack] = []
        self.state: MitigationState | None = None

    def publish(self, report: Report) -> None:
        super().publish(msgspec.structs.replace(report, attacks=self.attacks, mitigation=self.state))

    def fresh_report(self) -> Report | None:
        super().fresh_report()
        return self.report()


class Besieged(World):
    """A world whose edge tells of attacks, with its API."""

    def start(self) -> None:
        super().start()
        self.exchange = TellingExchange()
        self.exchange.attach(self.agent)
        self.agent._exchange = self.exchange
        self.plane.exchange = self.exchange
        self.chronicle = Chronicle()
        keyring = Keyring(TOKEN)
        self.app = build(self.plane, keyring, asyncio.Event())
        self.tell()

    def tell(self, *attacks: Attack) -> None:
        """One look of the agent, and what control makes of it."""
        self.exchange.attacks = list(attacks)
        self.agent.observe()
        self.chronicle.keep(self.plane)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request to the API, without a network."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())

    def get(self, path: str, **query: str) -> Any:
        answer = self.ask("GET", path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Besieged]:
    made = Besieged(tmp_path)
    yield made
    made.stop()


def attack(number: int, application: str = GONE, **changes: Any) -> Attack:
    known = {"kind": "udp", "vector": "UDP to 53", "started_unix_ms": 1_700_000_000_000 + 1000 * number} | changes
    return Attack(id=f"{number:032x}", application=application, **known)


def rule_state(application: str, number: int = 1, **match: Any) -> RuleState:
    return RuleState(Rule(f"rule{number}", application, "drop", Match(**match)), f"{1:032x}", 1_700_000_000_000)


def test_an_attack_is_told_with_all_that_is_known_and_survives_a_restart(world: Besieged) -> None:
    app = world.create(1000, x_causeway={"name": "my game"})
    rule = Rule("r1", app.id, "drop", Match(protocol=17, source_ports=(53, 53)), expires_ms=99)
    goes_on = attack(
        1,
        app.id,
        detected_after_ms=900,
        mitigated_after_ms=1_800,
        peak_packets_per_s=1_000_000,
        packets_dropped=5_000_000,
        packets_passed=12,
        rules=[rule],
        evidence=["00ff"],
        false_positive_bound=0.0001,
        good_samples=30_000,
    )
    world.tell(goes_on)
    world.restart()
    [listed] = world.get("/api/v1/attacks")
    assert listed == {
        "id": f"{1:032x}",
        "application": app.id,
        "application_name": "my game",
        "kind": "udp",
        "vector": "UDP to 53",
        "is_active": False,
        "started_on": "2023-11-14T22:13:21.000000Z",
        "ended_on": listed["ended_on"],
        "detected_after_ms": 900,
        "mitigated_after_ms": 1_800,
        "peak_packets_per_s": 1_000_000,
        "packets_dropped": 5_000_000,
        "packets_passed": 12,
        "false_positive_bound": 0.0001,
        "good_samples": 30_000,
    }
    assert listed["ended_on"] > listed["started_on"], "no edge tells of it: it ended when it was last seen"
    whole = world.get(f"/api/v1/attacks/{1:032x}")
    match = {"protocol": 17, "source_ports": [53, 53]}
    assert whole == listed | {
        "rules": [{"id": "r1", "application": app.id, "action": "drop", "match": match}],
        "evidence": ["00ff"],
    }
    world.tell(goes_on)
    assert world.get("/api/v1/attacks")[0]["is_active"], "an edge tells of it again: it goes on"


def test_nothing_is_written_while_nothing_is_new(world: Besieged, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = Database.write
    monkeypatch.setattr(Database, "write", lambda database: (written.append(1), write(database))[1])
    world.tell(attack(1))
    for _ in range(10):
        world.tell(attack(1))
    assert len(written) == 1
    world.tell(attack(1, packets_dropped=7))
    world.tell(attack(1, packets_dropped=7, ended_unix_ms=1_700_000_009_000))
    assert len(written) == 3
    world.tell()
    assert len(written) == 3, "what has ended may be forgotten by its edge"
    assert [one["packets_dropped"] for one in world.get("/api/v1/attacks")] == [7]


def test_a_database_that_fails_is_said_once_and_nothing_is_lost(
    world: Besieged, caplog: pytest.LogCaptureFixture
) -> None:
    holder = sqlite3.connect(world.path, isolation_level=None)
    holder.execute("alter table attacks rename to hidden")
    for _ in range(3):
        world.tell(attack(1))
    assert len([record for record in caplog.records if "attacks are not being kept" in record.message]) == 1
    holder.execute("alter table hidden rename to attacks")
    holder.close()
    world.tell(attack(1))
    assert [one["id"] for one in world.get("/api/v1/attacks")] == [f"{1:032x}"]


def test_lists_are_filtered_and_paged_the_newest_first(world: Besieged) -> None:
    app = world.create(1000)
    ended = attack(1, ended_unix_ms=1_700_000_002_000)
    world.tell(ended, attack(2, app.id), attack(3))

    def ids(**query: str) -> list[int]:
        return [int(one["id"], 16) for one in world.get("/api/v1/attacks", **query)]

    assert ids() == [3, 2, 1]
    assert ids(active="true") == [3, 2]
    assert ids(active="false") == [1]
    assert ids(application=app.id) == [2]
    assert ids(since="2023-11-14T22:13:22.5Z") == [3, 2]
    assert ids(since="2023-11-14T23:13:21+01:00") == [3, 2, 1]
    assert (ids(per_page="2", page="2"), ids(page="9")) == ([1], [])
    answer = world.ask("GET", "/api/v1/attacks", params={"per_page": 2}).json()
    assert answer["result_info"] == {"page": 1, "per_page": 2, "count": 2, "total_count": 3, "total_pages": 2}


WRONG = [  # path                                  status, code
    ("/api/v1/attacks?active=perhaps", 400, 19002),
    ("/api/v1/attacks?since=yesterday", 400, 19002),
    ("/api/v1/attacks?since=2026-01-01", 400, 19002),
    ("/api/v1/attacks?per_page=0", 400, 19002),
    (f"/api/v1/attacks/{GONE}", 404, 10006),
    ("/api/v1/attacks/12", 404, 7003),
]


@pytest.mark.parametrize(("path", "status", "code"), WRONG)
def test_what_cannot_be_asked_says_why(world: Besieged, path: str, status: int, code: int) -> None:
    answer = world.ask("GET", path)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)


def test_the_switch_reaches_the_edge_and_stays(world: Besieged) -> None:
    app = world.create(1000)
    assert "mitigation" not in world.engine.snapshot["settings"]
    world.exchange.state = MitigationState(False, True)
    told = world.ask("PUT", "/api/v1/mitigation", json={"enabled": False}).json()["result"]
    assert world.engine.snapshot["settings"]["mitigation"] is False
    assert told["enabled"] is False
    assert [(edge["name"], edge["is_enabled"], edge["is_attached"]) for edge in told["edges"]] == [
        ("local", False, True)
    ]
    count = len(world.engine.applied)
    assert world.ask("PUT", "/api/v1/mitigation", json={"enabled": False}).status_code == 200
    assert len(world.engine.applied) == count, "what is so already touches nothing"
    world.move(app, 1001)
    assert world.engine.snapshot["settings"]["mitigation"] is False, "other changes leave it as it is"
    world.restart()
    assert world.engine.snapshot["settings"]["mitigation"] is False
    assert world.get("/api/v1/mitigation")["enabled"] is False
    world.ask("PUT", "/api/v1/mitigation", json={"enabled": True})
    assert "mitigation" not in world.engine.snapshot["settings"]
    world.agree()


def test_a_switch_that_the_edge_refuses_did_not_happen(world: Besieged) -> None:
    world.create(1000)
    world.engine.fails_with = "snapshot_invalid"
    with pytest.raises(Problem):
        mitigation.switch(world.plane, is_on=False)
    world.engine.fails_with = None
    world.plane.settle()
    assert "mitigation" not in world.engine.snapshot["settings"]
    assert world.get("/api/v1/mitigation")["enabled"] is True
    world.restart()
    assert world.get("/api/v1/mitigation")["enabled"] is True


BODIES: list[object] = [
    {},
    {"enabled": "no"},
    {"enabled": None},
    {"enabled": 0},
    {"enabled": True, "for_s": 5},
    [],
    "off",
]


@pytest.mark.parametrize("body", BODIES, ids=str)
def test_a_switch_takes_true_or_false(world: Besieged, body: object) -> None:
    answer = world.ask("PUT", "/api/v1/mitigation", content=json.dumps(body))
    assert answer.status_code == 400
    assert world.get("/api/v1/mitigation")["enabled"] is True


def test_an_edge_that_says_nothing_of_mitigation_is_not_taken_for_one_that_mitigates(world: Besieged) -> None:
    [edge] = world.get("/api/v1/mitigation")["edges"]
    assert (edge["is_enabled"], edge["is_attached"]) == (False, False)
    assert "said nothing" in edge["missing"]


def test_an_explanation_names_automatic_rules_that_an_address_may_meet(world: Besieged) -> None:
    app, other = world.create(1000), world.create(1001)
    rules = [
        rule_state(app.id, 1, source="198.51.100.0/24"),
        rule_state(app.id, 2, protocol=17),
        rule_state(app.id, 3, is_ipv6=True),
        rule_state(app.id, 4, source="203.0.113.0/24"),
        rule_state(app.id, 5, source="2001:db8::/32"),
        rule_state(other.id, 6, source="198.51.100.7/32"),
    ]
    hold = Hold(app.id, cookies=True, rates=[Rate("syns", 32, 64, 10, 20)])
    world.exchange.state = MitigationState(True, True, None, rules, [hold])
    world.agent.observe()
    world.engine.explain = lambda *_: b"null"  # type: ignore[attr-defined]
    asked = world.get("/api/v1/firewall/explain", address="198.51.100.7")["applications"]
    told = {one["id"]: one["automatic"] for one in asked}
    assert [(rule["id"], rule["by"]) for rule in told[app.id]["rules"]] == [("rule1", "address"), ("rule2", "form")]
    assert [(rule["id"], rule["by"]) for rule in told[other.id]["rules"]] == [("rule6", "address")]
    assert (told[app.id]["hold"]["cookies"], told[other.id]["hold"]) == (True, None)


COVERED = [  # match, address                                  by its source; none: it cannot match
    ({}, "198.51.100.7", False),
    ({"source": "198.51.100.0/24"}, "198.51.100.7", True),
    ({"source": "198.51.100.0/24"}, "198.51.101.7", None),
    ({"source": "198.51.100.7"}, "198.51.100.7", True),
    ({"source": "0.0.0.0/0"}, "2001:db8::1", None),
    ({"is_ipv6": True}, "198.51.100.7", None),
    ({"is_ipv6": True}, "2001:db8::1", False),
    ({"source": "2001:db8::/32", "is_ipv6": True}, "2001:db8::1", True),
]


@pytest.mark.parametrize(("match", "address", "expected"), COVERED)
def test_a_rule_concerns_whom_its_source_names_or_whose_packets_have_its_form(
    match: dict[str, Any], address: str, expected: bool | None
) -> None:
    state = MitigationState(True, True, None, [rule_state(GONE, **match)])
    found = mitigation.rules_about(state, GONE, str(ip_address(address)))
    assert [by_source for _, by_source in found] == ([] if expected is None else [expected])


def test_status_has_a_line_of_it(world: Besieged) -> None:
    world.exchange.state = MitigationState(True, False, "no XDP here", [rule_state(GONE)])
    world.exchange.attacks = [attack(1), attack(2, ended_unix_ms=1_800_000_000_000)]
    [edge] = world.get("/api/v1/status")["edges"]
    assert edge["mitigation"] == {
        "is_enabled": True,
        "is_attached": False,
        "missing": "no XDP here",
        "rules": 1,
        "holds": 0,
        "attacks": 1,
    }


def test_the_tail_has_the_beginning_and_the_end_of_an_attack_once_each(world: Besieged) -> None:
    app = world.create(1000)
    world.tell(attack(1, app.id, ended_unix_ms=1_700_000_005_000, packets_dropped=9), attack(2))

    def lines(**query: str) -> list[Any]:
        return [json.loads(line) for line in world.ask("GET", "/api/v1/tail", params=query).text.splitlines()]

    kinds = [(line["kind"], int(line["attack"], 16), line["application_name"]) for line in lines()]
    assert kinds == [
        ("attackStarted", 1, "a.example.net"),
        ("attackStarted", 2, None),
        ("attackEnded", 1, "a.example.net"),
    ]
    assert [line["packets_dropped"] for line in lines(application=app.id)] == [9, 9]


def test_news_of_an_attack_wake_who_listens(world: Besieged) -> None:
    woken: list[int] = []
    with world.exchange.events(lambda: woken.append(1)):
        world.tell()
        assert not woken
        world.tell(attack(1))
        world.tell(attack(1, packets_dropped=5))
        assert len(woken) == 1, "counts alone are no news"
        world.tell(attack(1, ended_unix_ms=1_700_000_009_000))
        assert len(woken) == 2
