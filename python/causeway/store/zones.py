"""Accounts and zones in the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, true

from causeway.model.zone import Account, Zone
from causeway.store.rows import Row
from causeway.store.tables import accounts, zones

_ORDER = {
    "name": zones.c.name,
    "status": zones.c.name,  # all are active
    "account.id": zones.c.account_id,
    "account.name": accounts.c.name,
    "plan.id": zones.c.name,  # there are no plans
}
ORDERS = tuple(_ORDER)


@dataclass(frozen=True, slots=True)
class ZoneFilter:
    """An empty tuple asks for nothing. `is_any`: one of the tests is enough."""

    names: tuple[str, ...] = ()
    account_ids: tuple[str, ...] = ()
    account_names: tuple[str, ...] = ()
    is_any: bool = False


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


def owner(connection: Connection, hostname: str) -> str | None:
    """The name of the zone that a hostname belongs to: of those that it is in, the most specific one."""
    labels = hostname.split(".")
    above = [".".join(labels[n:]) for n in range(len(labels))]
    query = select(zones.c.name).where(zones.c.name.in_(above)).order_by(func.length(zones.c.name).desc())
    return connection.execute(query).scalars().first()


def page(
    connection: Connection, wanted: ZoneFilter, *, order: str, is_descending: bool, skip: int, most: int
) -> tuple[list[Zone], int]:
    """A page of zones and how many there are in all."""
    tests = [
        column.in_(values)
        for column, values in (
            (zones.c.name, wanted.names),
            (zones.c.account_id, wanted.account_ids),
            (accounts.c.name, wanted.account_names),
        )
        if values
    ]
    chosen = (or_ if wanted.is_any else and_)(*tests) if tests else true()
    column = _ORDER[order]
    query = select(zones).join(accounts, accounts.c.id == zones.c.account_id).where(chosen)
    total = connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()
    ordered = query.order_by(column.desc() if is_descending else column.asc(), zones.c.name)
    return [_zone(row) for row in connection.execute(ordered.offset(skip).limit(most))], total


def every(connection: Connection) -> list[Zone]:
    return [_zone(row) for row in connection.execute(select(zones))]


def _zone(row: Row) -> Zone:
    return Zone(
        id=row.id,
        account_id=row.account_id,
        name=row.name,
        created_on=datetime.fromisoformat(row.created_on),
        modified_on=datetime.fromisoformat(row.modified_on),
    )
