"""Create, change and delete IP Access Rules. A rule holds on the edge before the caller hears that it was made."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection

from causeway.control.applications import Asking
from causeway.control.plane import NewRules, Plane, now
from causeway.control.zones import zone_in
from causeway.model.access_rule import AccessRule, Level, Owner
from causeway.model.problem import Code, Problem
from causeway.store import access_rules as stored
from causeway.store import repeats
from causeway.store import zones as stored_zones

MOST_RULES = 10_000  # of one zone or account: each change compiles them all

Create = Callable[[str, datetime], AccessRule]
"""Makes the rule from its id and the time."""
Change = Callable[[AccessRule, datetime], AccessRule]
"""Makes the new rule from the present one and the time."""


def create(plane: Plane, owner: Owner, draft: Create, asking: Asking) -> AccessRule:
    """Make a rule. A repeat that is announced as one answers the rule that is there.

    Raises:
        Problem: nothing was changed.
    """
    made: list[AccessRule] = []

    def write(connection: Connection) -> NewRules | None:
        check_owner(connection, owner)
        rule = draft(secrets.token_hex(16), now())
        present = stored.find_target(connection, owner, rule.target, rule.value)
        if present and asking.is_again and (present.mode, present.notes) == (rule.mode, rule.notes):
            made.append(present)
            return None
        _refuse_second(present)
        if stored.count(connection, owner) >= MOST_RULES:
            raise Problem(
                Code.ACCESS_RULE, f"there are {MOST_RULES} rules here, the most possible: join prefixes or delete some"
            )
        stored.add(connection, rule)
        made.append(rule)
        return NewRules()

    plane.change(write)
    return made[0]


def change(plane: Plane, owner: Owner, rule_id: str, draft: Change) -> AccessRule:
    """Replace a rule by what `draft` makes of it. Raises Problem: nothing was changed."""
    made: list[AccessRule] = []

    def write(connection: Connection) -> NewRules | None:
        before = rule_in(connection, owner, rule_id)
        after = draft(before, now())
        made.append(after)
        if after is before:
            return None
        if (after.target, after.value) != (before.target, before.value):
            _refuse_second(stored.find_target(connection, owner, after.target, after.value))
        stored.change(connection, after)
        return NewRules()

    plane.change(write)
    return made[0]


def delete(plane: Plane, owner: Owner, rule_id: str, asking: Asking) -> None:
    """Delete a rule. Raises Problem: nothing was changed."""

    def write(connection: Connection) -> NewRules | None:
        key = f"deleted rule {owner.id} {rule_id}"
        if asking.is_again and repeats.recall(connection, key, now()):
            return None
        rule_in(connection, owner, rule_id)
        stored.remove(connection, rule_id)
        repeats.remember(connection, key, repeats.Served("", rule_id), now())
        return NewRules()

    plane.change(write)


def check_owner(connection: Connection, owner: Owner) -> None:
    """Raise the Problem that there is no such zone or account, if so."""
    if owner.level is Level.ZONE:
        zone_in(connection, owner.id)
    elif owner.id not in [account.id for account in stored_zones.all_accounts(connection)]:
        raise Problem(Code.BAD_IDENTIFIER, f"there is no account {owner.id}: list accounts to see their ids")


def rule_in(connection: Connection, owner: Owner, rule_id: str) -> AccessRule:
    """The rule, or the Problem that there is none."""
    check_owner(connection, owner)
    found = stored.find(connection, owner, rule_id)
    if found is None:
        where = "zone" if owner.level is Level.ZONE else "account"
        raise Problem(Code.NOT_FOUND, f"this {where} has no access rule {rule_id}: list its rules to see their ids")
    return found


def _refuse_second(present: AccessRule | None) -> None:
    if present:
        raise Problem(
            Code.ACCESS_RULE_EXISTS,
            f"rule {present.id} is about {present.value} already (mode {present.mode.value}): change that one",
            pointer="/configuration/value",
        )
