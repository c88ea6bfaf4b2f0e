"""Attacks and mitigation as people see them: each figure once, in words, and nothing that moves the cursor."""

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from causeway.answers import AttackTurn
from causeway.cli import attacks, firewall, status
from causeway.cli.attacks_view import automatic_texts, hold_text
from causeway.cli.main import app
from causeway.cli.status import mitigation_text
from causeway.cli.tail import line
from causeway.client import Client

ID, OTHER = "1234abcd" * 4, "1234ffff" * 4
RULE: dict[str, Any] = {
    "id": "r1",
    "application": "a" * 32,
    "action": "drop",
    "match": {"protocol": 17, "source_ports": [53, 53], "length": [512, 1500]},
}
RULE_STATE: dict[str, Any] = {
    **RULE,
    "attack": ID,
    "made_on": "2026-11-29T20:00:02Z",
    "packets": 1_000_000,
    "established": 0,
    "false_positive_bound": 0.0001,
    "good_samples": 30_000,
}
HOLD: dict[str, Any] = {
    "application": "a" * 32,
    "cookies": True,
    "state": True,
    "no_fragments": False,
    "rates": [
        {"of": "syns", "ipv4": 32, "ipv6": 64, "per_s": 1000, "burst": 2000, "spares_returning": False},
        {"of": "syns", "ipv4": 0, "ipv6": 0, "per_s": 20000, "burst": 20000, "spares_returning": True},
    ],
}
ATTACK: dict[str, Any] = {
    "id": ID,
    "application": "a" * 32,
    "application_name": "my game",
    "kind": "amplification",
    "vector": "UDP from port 53\x1b[2J",
    "is_active": False,
    "started_on": "2026-11-29T20:00:00Z",
    "ended_on": "2026-11-29T20:01:30Z",
    "detected_after_ms": 900,
    "mitigated_after_ms": 1_800,
    "peak_packets_per_s": 1_234_567,
    "packets_dropped": 80_000_000,
    "packets_passed": 4_321,
    "false_positive_bound": 0.0001,
    "good_samples": 30_000,
}
WHOLE = ATTACK | {"rules": [RULE], "evidence": ["00ff00ff"]}
GOES_ON = ATTACK | {"id": OTHER, "is_active": True, "ended_on": None, "mitigated_after_ms": None}
EDGE: dict[str, Any] = {
    "name": "local",
    "is_enabled": True,
    "is_attached": True,
    "missing": None,
    "rules": [RULE_STATE],
    "holds": [HOLD],
    "refused": {"r2": "no room"},
}


class Server:
    """Answers what a server would, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_on = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.raw_path.decode()}")
        if request.method == "PUT":
            self.is_on = json.loads(request.content)["enabled"]
        path = request.url.path
        result: Any = {
            "/api/v1/attacks": [GOES_ON, ATTACK],
            f"/api/v1/attacks/{ID}": WHOLE,
            f"/api/v1/attacks/{OTHER}": GOES_ON | {"rules": [], "evidence": []},
            "/api/v1/mitigation": {"enabled": self.is_on, "edges": [EDGE]},
        }.get(path)
        return httpx.Response(200, json={"success": True, "errors": [], "messages": [], "result": result})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    for module in (attacks, firewall, status):
        monkeypatch.setattr(
            module, "connect", lambda *_: Client("http://127.0.0.1:1", "token", httpx.MockTransport(made))
        )
    return made


def run(*arguments: str) -> str:
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, (answer.output, answer.exception)
    assert "\x1b[2J" not in answer.output
    return str(answer.output)


def test_attacks_are_a_line_each(server: Server) -> None:
    shown = run("attacks")
    rows = [row.split() for row in shown.splitlines()]
    assert rows[0][:2] == ["ID", "APPLICATION"]
    assert "goes on" in shown.splitlines()[1] and "1 min 30 s" in shown.splitlines()[2]
    assert "1,234,567/s" in shown and "80,000,000" in shown and "\\x1b[2J" in shown
    assert server.asked == ["GET /api/v1/attacks?page=1&per_page=1000"]
    assert json.loads(run("attacks", "--active", "-o", "json"))[1]["id"] == ID
    assert server.asked[-1] == "GET /api/v1/attacks?active=true&page=1&per_page=1000"


@pytest.mark.parametrize("wanted", [ID, ID.upper(), "1234abcd"])
def test_one_attack_is_told_whole(server: Server, wanted: str) -> None:
    shown = run("attacks", "show", wanted)
    for part in (
        "amplification on my game",
        "after 900 ms",
        "after 1.8 s",
        "1 min 30 s",
        "1,234,567 packets/s",
        "80,000,000 packets, 4,321 were let in",
        "at most 0.01 % of good packets (95 % confidence, 0 of 30,000)",
        "drops UDP, source port 53, 512-1500 bytes",
        "00ff00ff",
    ):
        assert part in shown, shown
    assert json.loads(run("attacks", "show", wanted, "-o", "json")) == WHOLE


def test_an_attack_that_goes_on_says_so(server: Server) -> None:
    shown = run("attacks", "show", OTHER)
    assert "it goes on" in shown and "mitigated     not" in shown


@pytest.mark.parametrize(("wanted", "why"), [("1234", "2 attacks"), ("12", "too short"), ("feed", "no attack 'feed'")])
def test_an_id_that_is_not_one_attacks_is_refused(server: Server, wanted: str, why: str) -> None:
    answer = CliRunner().invoke(app, ["attacks", "show", wanted])
    assert answer.exit_code != 0
    assert why in str(answer.exception)


def test_the_switch_tells_what_is_done(server: Server) -> None:
    shown = run("mitigation")
    for part in (
        "automatic mitigation is on",
        "the kernel judges packets",
        "drops UDP, source port 53, 512-1500 bytes; 1,000,000 packets, for attack 1234abcd",
        "SYNs are answered by cookies, TCP of no connection is dropped, each /32 (IPv6: /64) may send 1,000 syns",
        "all together may send 20,000 syns a second, and as many again who ask again",
        "refused r2",
        "causeway mitigation off",
    ):
        assert part in shown, shown
    assert "automatic mitigation is off" in run("mitigation", "off")
    assert "automatic mitigation is on" in run("mitigation", "on")
    assert server.asked == ["GET /api/v1/mitigation", "PUT /api/v1/mitigation", "PUT /api/v1/mitigation"]
    assert json.loads(run("mitigation", "-o", "json"))["edges"] == [EDGE]


STATES = [  # enabled, attached, why not, rules, attacks            said
    ((True, False, None, 0, 0), "on, the kernel judges packets when it has to, 0 attacks going on"),
    ((True, True, None, 2, 1), "on, the kernel judges packets, 2 rules, 0 applications held, 1 attacks going on"),
    ((True, False, "no XDP here", 0, 0), "on, but nothing can be held off: no XDP here"),
    ((False, True, None, 0, 0), "off: switch it on with causeway mitigation on"),
    ((False, False, "the agent is old", 0, 0), "off: the agent is old"),
]


@pytest.mark.parametrize(("state", "said"), STATES)
def test_status_says_it_in_a_line(state: tuple[Any, ...], said: str) -> None:
    enabled, attached, missing, rules, count = state
    told: Any = {
        "is_enabled": enabled,
        "is_attached": attached,
        "missing": missing,
        "rules": rules,
        "holds": 0,
        "attacks": count,
    }
    assert mitigation_text(told) == said


def explained(**automatic: Any) -> Any:
    return {
        "ip_firewall": False,
        "verdict": "none",
        "banned_s": 0,
        "asn": None,
        "country": None,
        "rule": None,
        "dry_run": [],
        "automatic": {"rules": [], "hold": None} | automatic,
    }


def test_why_blocked_tells_whether_the_address_or_the_form_of_its_packets_is_the_reason() -> None:
    by_address = explained(rules=[RULE_STATE | {"by": "address", "match": {"source": "198.51.100.0/24"}}])
    by_form = explained(rules=[RULE_STATE | {"by": "form"}], hold=HOLD)
    assert firewall._verdict(by_address) == "dropped"
    assert "automatic rule r1 drops packets, from 198.51.100.0/24 (matches by address" in firewall._why(by_address)
    assert firewall._verdict(by_form) == "let in"
    why = firewall._why(by_form)
    assert "matches by packet form, not by address; attack 1234abcd" in why
    assert "automatic: SYNs are answered by cookies" in why
    assert firewall._why(explained()) == "its firewall is off (ip_firewall)"
    assert automatic_texts({"rules": [], "hold": None}) == []


def test_a_hold_without_more_is_watched() -> None:
    bare: Any = {"application": "a" * 32, "cookies": False, "state": False, "no_fragments": False, "rates": []}
    assert hold_text(bare) == "watched"
    assert hold_text(bare | {"no_fragments": True}) == "fragments are dropped"


def test_the_tail_shows_an_attack_in_a_line() -> None:
    began: AttackTurn = {
        "kind": "attackStarted",
        "time_ms": 1_700_000_002_000,
        "application": "a" * 32,
        "application_name": "my game",
        "attack": ID,
        "attack_kind": "udp",
        "vector": "UDP to 53\x1b[2J",
        "peak_packets_per_s": 0,
        "packets_dropped": 0,
        "packets_passed": 0,
    }
    assert line(began).partition("  ")[2] == "attackStarted   my game  1234abcd  udp: UDP to 53\\x1b[2J"
    ended: AttackTurn = {**began, "kind": "attackEnded", "packets_dropped": 9, "packets_passed": 1}
    assert line(ended).endswith("UDP to 53\\x1b[2J  9 dropped, 1 let in")
