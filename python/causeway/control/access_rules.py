"""Create, change and delete IP Access Rules. A rule holds on the edge before the caller hears that it was made."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection

from causeway.control.applications import Asking
from causeway.control.plane import Plane, now
from causeway.control.state import NewRules
from causeway.control.zones import zone_in
from causeway.model.access_rule import AccessRule, Level, Owner, Target
from causeway.model.problem import Code, Problem
from causeway.store import access_rules as stored
from causeway.store import applications, repeats
from causeway.store import firewall_lists as lists
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
        _check_named(connection, rule)
        present = stored.find_same(connection, rule)
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
        _check_named(connection, after)
        _refuse_second(stored.find_same(connection, after))
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


def expire(plane: Plane) -> None:
    """Delete the rules whose time has passed; the edge hears of it."""
    if plane.database is None or plane.unavailable or not plane.next_expiry or plane.next_expiry > now():
        return

    def write(connection: Connection) -> NewRules | None:
        return NewRules() if stored.remove_expired(connection, now()) else None

    plane.change(write)


def find_anywhere(connection: Connection, rule_id: str) -> AccessRule:
    """The rule, whoever has it, or the Problem that there is none."""
    found = stored.find_any(connection, rule_id)
    if found is None:
        raise Problem(Code.NOT_FOUND, f"there is no access rule {rule_id}: list the rules to see their ids")
    return found


def _check_named(connection: Connection, rule: AccessRule) -> None:
    """What a rule names has to be there."""
    if rule.target is Target.LIST and not lists.find(connection, rule.value):
        raise _wrong(f"there is no list {rule.value!r}: make it with PUT /api/v1/firewall/lists/{rule.value}")
    known = [database.target for database in lists.databases(connection)]
    if rule.target in (Target.ASN, Target.COUNTRY) and rule.target not in known:
        raise Problem(
            Code.ACCESS_RULE,
            f"{rule.target} {rule.value}: no database here says which addresses those are; give one with causeway "
            f"geo update --{rule.target} FILE",
            pointer="/configuration/target",
        )
    if rule.application:
        owner = applications.zone_of(connection, rule.application)
        if owner is None or (rule.owner.level is Level.ZONE and owner != rule.owner.id):
            why = f"this rule reaches no application {rule.application}: list applications to see their ids"
            raise Problem(Code.ACCESS_RULE, why, pointer="/x_causeway/application")


def _wrong(message: str) -> Problem:
    return Problem(Code.ACCESS_RULE, message, pointer="/configuration/value")


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
