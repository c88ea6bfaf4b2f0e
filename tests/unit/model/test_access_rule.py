"""Rules become scopes, the narrowest first, and what the engine is told of them."""

import json

from causeway.model.access_rule import Compiled, Mode, Target, compile_rules
from causeway.model.application import Ports
from causeway.model.snapshot import encode_firewall

ZONE, APP = "f" * 32, "a" * 32


def rule(id_: str, **more: object) -> Compiled:
    return Compiled(id_, Target.IP, "198.51.100.7", Mode.BLOCK)._replace(**more)


def test_narrow_scopes_come_first_and_rules_on_trial_stay_apart() -> None:
    rules = [
        rule("all"),
        rule("trial", is_dry_run=True),
        rule("many", ports=Ports(1, 1000)),
        rule("one", ports=Ports(22, 22)),
        rule("app", application=APP),
        rule("both", application=APP, ports=Ports(22, 23)),
        rule("again"),
    ]
    scopes = compile_rules(rules)
    assert [[one.id for one in scope.rules] for scope in scopes] == [
        ["both"], ["app"], ["one"], ["many"], ["again", "all"], ["trial"],
    ]  # fmt: skip
    assert [scope.is_dry_run for scope in scopes] == [False] * 5 + [True]


def test_the_order_in_which_rules_were_made_changes_nothing() -> None:
    rules = [rule(str(n), ports=Ports(n % 3 + 1, 9), is_dry_run=n % 2 == 0) for n in range(12)]
    assert compile_rules(rules) == compile_rules(reversed(rules))


def test_each_target_and_action_is_told_in_the_engines_words() -> None:
    rules = [
        rule("1", target=Target.IP6, value="2001:db8::1", mode=Mode.WHITELIST, drop_established=True),
        rule("2", target=Target.IP_RANGE, value="198.51.100.0/24", drop_established=True),
        rule("3", target=Target.ASN, value="AS64496"),
        rule("4", target=Target.COUNTRY, value="DE"),
        rule("5", target=Target.LIST, value="seen"),
    ]
    told = json.loads(encode_firewall(ZONE, compile_rules(rules), {"seen": "d1"}, {Target.ASN: "d2"}))
    assert told == {
        "id": ZONE,
        "asn": "d2",
        "scopes": [
            {
                "rules": [
                    {"id": "1", "action": "allow", "target": {"prefix": "2001:db8::1/128"}},
                    {"id": "2", "action": "cut", "target": {"prefix": "198.51.100.0/24"}},
                    {"id": "3", "action": "block", "target": {"asn": 64496}},
                    {"id": "4", "action": "block", "target": {"country": "DE"}},
                    {"id": "5", "action": "block", "target": {"list": "d1"}},
                ]
            }
        ],
    }


def test_without_a_rule_nothing_is_told() -> None:
    assert json.loads(encode_firewall(ZONE, (), {}, {Target.ASN: "d2"})) == {"id": ZONE}
