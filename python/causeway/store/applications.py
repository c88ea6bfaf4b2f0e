"""Applications in the database."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, delete, func, insert, select, update

from causeway.model.application import Application
from causeway.store.rows import from_row, to_row
from causeway.store.tables import applications

__all__ = ["ORDERS", "add", "change", "count", "every", "find", "page", "remove", "to_row"]

_ORDER = {
    "protocol": applications.c.protocol,
    "app_id": applications.c.id,
    "created_on": applications.c.created_on,
    "modified_on": applications.c.modified_on,
    "dns": applications.c.dns,
}
ORDERS = tuple(_ORDER)


def add(connection: Connection, application: Application) -> None:
    connection.execute(insert(applications).values(to_row(application)))


def change(connection: Connection, application: Application) -> None:
    connection.execute(update(applications).where(applications.c.id == application.id).values(to_row(application)))


def remove(connection: Connection, application_id: str) -> None:
    connection.execute(delete(applications).where(applications.c.id == application_id))


def zone_of(connection: Connection, application_id: str) -> str | None:
    """The zone of an application."""
    found = connection.execute(select(applications.c.zone_id).where(applications.c.id == application_id)).scalar()
    return str(found) if found else None


def find(connection: Connection, zone_id: str, application_id: str) -> Application | None:
    query = select(applications).where(applications.c.zone_id == zone_id, applications.c.id == application_id)
    row = connection.execute(query).first()
    return from_row(row) if row else None


def count(connection: Connection, zone_id: str | None = None) -> int:
    query = select(func.count()).select_from(applications)
    if zone_id is not None:
        query = query.where(applications.c.zone_id == zone_id)
    return connection.execute(query).scalar_one()


def page(
    connection: Connection, zone_id: str, *, order: str, is_descending: bool, skip: int, most: int
) -> list[Application]:
    column = _ORDER[order]
    query = (
        select(applications)
        .where(applications.c.zone_id == zone_id)
        .order_by(column.desc() if is_descending else column.asc(), applications.c.id)
        .offset(skip)
        .limit(most)
    )
    return [from_row(row) for row in connection.execute(query)]


def every(connection: Connection) -> Iterator[Application]:
    """All of all zones, oldest first."""
    query = select(applications).order_by(applications.c.created_on, applications.c.id)
    yield from (from_row(row) for row in connection.execute(query))
