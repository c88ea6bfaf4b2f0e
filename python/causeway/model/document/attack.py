"""Attacks and what is done against them, as the API shows them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from causeway.model.mitigation import Attack, Hold, Rule, RuleState
from causeway.model.timestamps import rfc3339


def show_attack(attack: Attack, application_name: str | None) -> dict[str, object]:
    """Its course and its cost; rules and evidence are in `show_attack_whole`."""
    return {
        "id": attack.id,
        "application": attack.application,
        "application_name": application_name,
        "kind": attack.kind,
        "vector": attack.vector,
        "is_active": attack.ended_unix_ms is None,
        "started_on": _moment(attack.started_unix_ms),
        "ended_on": None if attack.ended_unix_ms is None else _moment(attack.ended_unix_ms),
        "detected_after_ms": attack.detected_after_ms,
        "mitigated_after_ms": attack.mitigated_after_ms,
        "peak_packets_per_s": attack.peak_packets_per_s,
        "packets_dropped": attack.packets_dropped,
        "packets_passed": attack.packets_passed,
        "false_positive_bound": attack.false_positive_bound,
        "good_samples": attack.good_samples,
    }


def show_attack_whole(attack: Attack, application_name: str | None) -> dict[str, object]:
    return {
        **show_attack(attack, application_name),
        "rules": [show_rule(rule) for rule in attack.rules],
        "evidence": attack.evidence,
    }


def show_rule(rule: Rule) -> dict[str, object]:
    """Without its expiry, which is by the clock of one edge."""
    return {
        "id": rule.id,
        "application": rule.application,
        "action": rule.action,
        "match": msgspec.to_builtins(rule.match),
    }


def show_rule_state(state: RuleState) -> dict[str, object]:
    return {
        **show_rule(state.rule),
        "attack": state.attack,
        "made_on": _moment(state.made_unix_ms),
        "packets": state.packets,
        "established": state.established,
        "false_positive_bound": state.false_positive_bound,
        "good_samples": state.good_samples,
    }


def show_hold(hold: Hold) -> dict[str, object]:
    return {
        "application": hold.application,
        "cookies": hold.cookies,
        "state": hold.state,
        "no_fragments": hold.no_fragments,
        "rates": [msgspec.structs.asdict(rate) for rate in hold.rates],
    }


class Turn(msgspec.Struct, frozen=True):
    """An attack begins or ends: what stands between the events of flows."""

    kind: Literal["attackStarted", "attackEnded"]
    time_ms: int
    application: str
    attack: str
    attack_kind: str
    vector: str
    peak_packets_per_s: int
    packets_dropped: int
    packets_passed: int

    @property
    def key(self) -> tuple[str, str]:
        return self.attack, self.kind


def turns(attack: Attack) -> list[Turn]:
    """Its beginning, and its end if it is over."""

    def turn(kind: Literal["attackStarted", "attackEnded"], time_ms: int) -> Turn:
        return Turn(
            kind,
            time_ms,
            attack.application,
            attack.id,
            attack.kind,
            attack.vector,
            attack.peak_packets_per_s,
            attack.packets_dropped,
            attack.packets_passed,
        )

    ended = [] if attack.ended_unix_ms is None else [turn("attackEnded", attack.ended_unix_ms)]
    return [turn("attackStarted", attack.started_unix_ms), *ended]


def _moment(unix_ms: int) -> str:
    return rfc3339(datetime.fromtimestamp(unix_ms / 1000, UTC))
