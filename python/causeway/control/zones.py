"""Accounts, and zones: the names under which applications live."""

from __future__ import annotations

import secrets
from datetime import timedelta

from sqlalchemy import Connection

from causeway.control.plane import Plane, now
from causeway.control.state import Steered
from causeway.model.access_rule import Level, Owner
from causeway.model.hostname import is_within
from causeway.model.problem import Code, Problem
from causeway.model.zone import Account, Setting, Zone
from causeway.store import access_rules, zone_settings
from causeway.store import applications as stored_applications
from causeway.store import zones as stored

_REPEAT_WINDOW = timedelta(minutes=10)


def ensure_account(plane: Plane) -> Account:
    """The one account, made at the first start."""
    with plane.writing() as connection:
        accounts = stored.all_accounts(connection)
        if accounts:
            return accounts[0]
        account = Account(secrets.token_hex(16), "default", now())
        stored.add_account(connection, account)
        return account


def create(plane: Plane, name: str, account_id: str | None, *, is_again: bool = False) -> Zone:
    """Make a zone; a name exists once. A repeat that is announced as one answers the zone that it made before."""
    moment = now()
    with plane.writing() as connection:
        accounts = [account.id for account in stored.all_accounts(connection)]
        account_id = account_id or accounts[0]
        if account_id not in accounts:
            raise Problem(
                Code.INVALID_VALUE,
                f"there is no account {account_id}: list accounts to see theirs",
                pointer="/account/id",
            )
        if present := stored.named(connection, name):
            if is_again and present.account_id == account_id and present.created_on >= moment - _REPEAT_WINDOW:
                return present
            raise Problem(Code.ZONE_EXISTS, f"zone {name} exists already (id {present.id})", pointer="/name")
        _refuse_if_its_names_are_used(plane, name)
        zone = Zone(secrets.token_hex(16), account_id, name, moment, moment)
        stored.add(connection, zone)
    return zone


def count(plane: Plane) -> int:
    with plane.reading() as connection:
        return len(stored.every(connection))


def delete(plane: Plane, zone_id: str) -> None:
    """Remove a zone that has no applications any more."""
    with plane.writing() as connection:
        zone = zone_in(connection, zone_id)
        left = stored_applications.count(connection, zone_id)
        if left:
            raise Problem(
                Code.CONFLICT,
                f"zone {zone.name} still has {left} application{'s' if left > 1 else ''}: delete them first",
            )
        held = (form for hold in plane.course.holds.values() for form in (hold.before, hold.staged) if form)
        if any(form.application.zone_id == zone_id for form in held):
            raise Problem(
                Code.CONFLICT,
                f"edges of other machines still serve applications of zone {zone.name}: wait for their rollout, or see "
                "causeway rollouts",
            )
        access_rules.remove_all(connection, Owner(Level.ZONE, zone_id))
        zone_settings.remove_all(connection, zone_id)
        stored.remove(connection, zone_id)


def smart_routing(plane: Plane, zone_id: str) -> Setting:
    """Whether smart routing is on for all applications of a zone that it can be for."""
    with plane.reading() as connection:
        zone_in(connection, zone_id)
        return zone_settings.find(connection, zone_id, zone_settings.SMART_ROUTING)


def set_smart_routing(plane: Plane, zone_id: str, *, is_on: bool) -> Setting:
    """Switch it; durable, and known to all edges when this returns. What its applications say themselves stays.

    Raises:
        Problem: nothing was changed.
    """
    made: list[Setting] = []

    def write(connection: Connection) -> Steered | None:
        zone_in(connection, zone_id)
        before = zone_settings.find(connection, zone_id, zone_settings.SMART_ROUTING)
        if before.modified_on and before.is_on is is_on:
            made.append(before)
            return None
        moment = now()
        made.append(Setting(is_on, moment))
        zone_settings.put(connection, zone_id, zone_settings.SMART_ROUTING, moment, is_on=is_on)
        return Steered(zone_settings.zones_with(connection, zone_settings.SMART_ROUTING))

    plane.change(write)
    return made[0]


def zone_in(connection: Connection, zone_id: str) -> Zone:
    """The zone, or the Problem that there is none."""
    zone = stored.find(connection, zone_id)
    if zone is None:
        raise Problem(Code.NO_ZONE, f"there is no zone {zone_id}: list zones to see their ids")
    return zone


def _refuse_if_its_names_are_used(plane: Plane, name: str) -> None:
    """A zone below another one takes over its part of the names, so nothing may live there yet."""
    for piece in plane.pieces.values():
        application = piece.application
        if is_within(application.dns.name, name):
            raise Problem(
                Code.HOSTNAME,
                f"zone {name} would take over {application.dns.name}, which application {application.id} "
                "of another zone has: delete or rename that first",
                pointer="/name",
            )
