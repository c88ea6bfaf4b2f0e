"""Accounts and zones in the database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.sql.elements import ColumnElement

from causeway.model.zone import Account, Zone
from causeway.store.rows import Row
from causeway.store.tables import accounts, zones


def add_account(connection: Connection, account: Account) -> None:
    values = {"id": account.id, "name": account.name, "created_on": account.created_on.isoformat()}
    connection.execute(insert(accounts).values(values))


def all_accounts(connection: Connection) -> list[Account]:
    rows = connection.execute(select(accounts).order_by(accounts.c.created_on, accounts.c.id))
    return [Account(row.id, row.name, datetime.fromisoformat(row.created_on)) for row in rows]


def add(connection: Connection, zone: Zone) -> None:
    connection.execute(
        insert(zones).values(
            id=zone.id,
            account_id=zone.account_id,
            name=zone.name,
            created_on=zone.created_on.isoformat(),
            modified_on=zone.modified_on.isoformat(),
        )
    )


def remove(connection: Connection, zone_id: str) -> None:
    connection.execute(delete(zones).where(zones.c.id == zone_id))


def find(connection: Connection, zone_id: str) -> Zone | None:
    row = connection.execute(select(zones).where(zones.c.id == zone_id)).first()
    return _zone(row) if row else None


def named(connection: Connection, name: str) -> Zone | None:
    row = connection.execute(select(zones).where(zones.c.name == name)).first()
    return _zone(row) if row else None


def page(
    connection: Connection, *, name: str | None, account_id: str | None, skip: int, most: int
) -> tuple[list[Zone], int]:
    """A page of zones and how many there are in all."""
    wanted: list[ColumnElement[bool]] = []
    if name is not None:
        wanted.append(zones.c.name == name)
    if account_id is not None:
        wanted.append(zones.c.account_id == account_id)
    total = connection.execute(select(func.count()).select_from(zones).where(*wanted)).scalar_one()
    query = select(zones).where(*wanted).order_by(zones.c.name).offset(skip).limit(most)
    return [_zone(row) for row in connection.execute(query)], total


def all_names(connection: Connection) -> list[Zone]:
    return [_zone(row) for row in connection.execute(select(zones))]


def _zone(row: Row) -> Zone:
    return Zone(
        id=row.id,
        account_id=row.account_id,
        name=row.name,
        created_on=datetime.fromisoformat(row.created_on),
        modified_on=datetime.fromisoformat(row.modified_on),
    )
