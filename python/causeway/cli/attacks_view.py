"""How attacks and automatic rules look: the list, one in full, and what mitigation does now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from causeway.cli.lookup import short_id
from causeway.cli.render import duration_text, hint, print_fields, print_table, say
from causeway.model.mitigation import REST, Rule
from causeway.model.wording import bound_text, rule_text

if TYPE_CHECKING:
    from causeway.answers import Attack, Automatic, EdgeMitigation, Hold, Mitigation, MitigationRule, Rate

MOST_EVIDENCE = 5


def print_attacks(attacks: Sequence[Attack]) -> None:
    rows = [
        (
            short_id(attack["id"]),
            _name(attack),
            _clock(attack["started_on"]),
            "goes on" if attack["is_active"] else _lasted(attack),
            attack["kind"],
            f"{attack['peak_packets_per_s']:,}/s",
            f"{attack['packets_dropped']:,}",
            attack["vector"],
        )
        for attack in attacks
    ]
    styles = ["red" if attack["is_active"] else "" for attack in attacks]
    print_table(("ID", "APPLICATION", "STARTED", "LASTED", "KIND", "PEAK", "DROPPED", "REASON"), rows, styles)


def print_attack(attack: Attack) -> None:
    say(f"{attack['kind']} on {_name(attack)}", style="bold red" if attack["is_active"] else "bold")
    mitigated = attack["mitigated_after_ms"]
    print_fields(
        (
            ("id", attack["id"]),
            ("packets", attack["vector"]),
            ("started", _clock(attack["started_on"])),
            ("detected", f"after {duration_text(attack['detected_after_ms'] / 1000)}"),
            ("mitigated", "not" if mitigated is None else f"after {duration_text(mitigated / 1000)}"),
            ("ended", "it goes on" if (end := attack["ended_on"]) is None else f"{_clock(end)}, {_lasted(attack)}"),
            ("peak", f"{attack['peak_packets_per_s']:,} packets/s"),
            ("dropped", f"{attack['packets_dropped']:,} packets, {attack['packets_passed']:,} were let in"),
            ("good clients", bound_text(attack["false_positive_bound"], attack["good_samples"])),
        ),
        indent=2,
    )
    if rules := attack.get("rules"):
        say("rules", style="bold")
        print_fields(((rule["id"], _rule(rule)) for rule in rules), indent=2)
    if evidence := attack.get("evidence"):
        say("packets as they came", style="bold")
        for frame in evidence[:MOST_EVIDENCE]:
            say(f"  {frame}")


def print_mitigation(told: Mitigation) -> None:
    say(f"automatic mitigation is {'on' if told['enabled'] else 'off'}", style="bold")
    for edge in told["edges"]:
        print_fields(_edge_fields(edge), indent=2)
    if told["enabled"]:
        hint("end everything automatic:  causeway mitigation off")


def _edge_fields(edge: EdgeMitigation) -> list[tuple[str, str]]:
    state = "on" if edge["is_enabled"] else "off"
    judged = "the kernel judges packets" if edge["is_attached"] else "the kernel judges packets when it has to"
    if edge["missing"]:
        judged = f"nothing can be held off: {edge['missing']}"
    return [
        (f"edge {edge['name']}", f"{state}, {judged}"),
        *(
            (
                f"rule {rule['id']}",
                f"{_rule(rule)}; {rule['packets']:,} packets, for attack {short_id(rule['attack'])}; "
                + bound_text(rule["false_positive_bound"], rule["good_samples"]),
            )
            for rule in edge["rules"]
        ),
        *((_held(hold), hold_text(hold)) for hold in edge["holds"]),
        *((f"refused {what}", why) for what, why in edge["refused"].items()),
    ]


def automatic_texts(automatic: Automatic) -> list[str]:
    """What automatic rules can mean for one address."""
    by = {"address": "matches by address", "form": "matches by packet form, not by address"}
    said = [
        f"automatic rule {rule['id']} {_rule(rule)} ({by[rule.get('by', 'form')]}; attack {short_id(rule['attack'])})"
        for rule in automatic["rules"]
    ]
    return said + ([f"automatic: {hold_text(hold)}"] if (hold := automatic["hold"]) else [])


def _held(hold: Hold) -> str:
    application = hold["application"]
    return "what is nobody's" if application == REST else f"application {short_id(application)}"


def hold_text(hold: Hold) -> str:
    parts = (
        "SYNs are answered by cookies" if hold["cookies"] else "",
        "TCP of no connection is dropped" if hold["state"] else "",
        "fragments are dropped" if hold["no_fragments"] else "",
        *(_rate_text(rate) for rate in hold["rates"]),
    )
    return ", ".join(part for part in parts if part) or "watched"


def _rate_text(rate: Rate) -> str:
    who = f"each /{rate['ipv4']} (IPv6: /{rate['ipv6']})" if rate["ipv4"] else "all together"
    again = ", and as many again who ask again" if rate["spares_returning"] else ""
    return f"{who} may send {rate['per_s']:,} {rate['of']} a second{again}"


def _rule(rule: MitigationRule) -> str:
    return rule_text(msgspec.convert({name: rule[name] for name in ("id", "application", "action", "match")}, Rule))


def _name(attack: Attack) -> str:
    if attack["application"] == REST:
        return "the whole edge"
    return attack["application_name"] or short_id(attack["application"])


def _lasted(attack: Attack) -> str:
    end = datetime.fromisoformat(attack["ended_on"] or attack["started_on"])
    return duration_text((end - datetime.fromisoformat(attack["started_on"])).total_seconds())


def _clock(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
