"""Zones: names under which applications live."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection

from causeway.control.plane import Plane, now
from causeway.model.problem import Code, Problem
from causeway.model.zone import Account, Zone
from causeway.store import applications as stored_applications
from causeway.store import zones as stored


def ensure_account(plane: Plane) -> Account:
    """The one account, made at the first start."""
    with plane.writing() as connection:
        accounts = stored.all_accounts(connection)
        if accounts:
            return accounts[0]
        account = Account(secrets.token_hex(16), "default", now())
        stored.add_account(connection, account)
        return account


def create(plane: Plane, name: str, account_id: str | None) -> Zone:
    """Make a zone; a name exists once."""
    moment = now()
    with plane.writing() as connection:
        accounts = {account.id for account in stored.all_accounts(connection)}
        account_id = account_id or next(iter(accounts))
        if account_id not in accounts:
            raise Problem(Code.NOT_FOUND, f"there is no account {account_id}", pointer="/account/id")
        if stored.named(connection, name):
            raise Problem(Code.ZONE_EXISTS, f"zone {name} exists already", pointer="/name")
        zone = Zone(secrets.token_hex(16), account_id, name, moment, moment)
        stored.add(connection, zone)
    return zone


def delete(plane: Plane, zone_id: str) -> None:
    """Remove a zone that has no applications any more."""
    with plane.writing() as connection:
        zone = zone_in(connection, zone_id)
        left = stored_applications.count(connection, zone_id)
        if left:
            raise Problem(Code.CONFLICT, f"zone {zone.name} still has {left} application(s): delete them first")
        stored.remove(connection, zone_id)


def zone_in(connection: Connection, zone_id: str) -> Zone:
    """The zone, or the Problem that there is none."""
    zone = stored.find(connection, zone_id)
    if zone is None:
        raise Problem(
            Code.BAD_IDENTIFIER,
            f"could not route to zone {zone_id}, perhaps the identifier is wrong: list zones to see them",
        )
    return zone
