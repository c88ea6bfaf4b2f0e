"""Automatic mitigation: switched on and off for all edges, what it does on each, and whom that can concern."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from sqlalchemy import Connection

from causeway.control.plane import Plane
from causeway.control.state import Switched
from causeway.model.mitigation import Hold, Match, MitigationState, RuleState
from causeway.model.report import Report
from causeway.store import switches

_SILENT = MitigationState(False, False, "this edge has said nothing of automatic mitigation yet")


def switch(plane: Plane, *, is_on: bool) -> None:
    """Switch it for all applications of all edges; durable, and at work when this returns.

    Raises:
        Problem: nothing was changed.
    """

    def write(connection: Connection) -> Switched | None:
        if switches.is_mitigation_on(connection) is is_on:
            return None
        switches.set_mitigation(connection, is_on)
        return Switched(is_on)

    plane.change(write)


def state_of(report: Report | None) -> MitigationState:
    """What it does on the edge of this report."""
    return (report.mitigation if report else None) or _SILENT


def rules_about(state: MitigationState, application: str, address: str) -> list[tuple[RuleState, bool]]:
    """The rules at this application that an address may meet, and of each whether its source is why."""
    found = []
    for rule in state.rules:
        if rule.rule.application == application and (by_source := _meets(rule.rule.match, address)) is not None:
            found.append((rule, by_source))
    return found


def hold_of(state: MitigationState, application: str) -> Hold | None:
    return next((hold for hold in state.holds if hold.application == application), None)


def _meets(match: Match, text: str) -> bool | None:
    """Whether the rule names the address as its source; none: no packet of it can match."""
    address = ip_address(text)
    if match.is_ipv6 is not None and match.is_ipv6 is not (address.version == 6):
        return None
    if match.source is None:
        return False
    return True if address in ip_network(match.source, strict=False) else None
