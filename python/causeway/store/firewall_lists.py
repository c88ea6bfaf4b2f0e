"""Lists and databases of the firewall, and their content under its digest."""

from __future__ import annotations

import zlib
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from causeway.model.access_rule import GeoDatabase, List, Target
from causeway.store.rows import Row
from causeway.store.tables import firewall_contents, firewall_databases, firewall_lists


def every(connection: Connection) -> list[List]:
    return [_list(row) for row in connection.execute(select(firewall_lists).order_by(firewall_lists.c.name))]


def find(connection: Connection, name_or_id: str) -> List | None:
    is_it = (firewall_lists.c.name == name_or_id) | (firewall_lists.c.id == name_or_id)
    row = connection.execute(select(firewall_lists).where(is_it)).first()
    return _list(row) if row else None


def save(connection: Connection, made: List) -> None:
    """Add or replace."""
    row = {
        "name": made.name,
        "description": made.description,
        "digest": made.digest,
        "ipv4": made.ipv4,
        "ipv6": made.ipv6,
        "created_on": made.created_on.isoformat(timespec="microseconds"),
        "modified_on": made.modified_on.isoformat(timespec="microseconds"),
    }
    if not connection.execute(update(firewall_lists).where(firewall_lists.c.id == made.id).values(row)).rowcount:
        connection.execute(insert(firewall_lists).values(id=made.id, **row))


def remove(connection: Connection, list_id: str) -> None:
    connection.execute(delete(firewall_lists).where(firewall_lists.c.id == list_id))


def databases(connection: Connection) -> list[GeoDatabase]:
    return [
        GeoDatabase(
            Target(row.target), row.digest, row.name, row.prefixes, row.keys, datetime.fromisoformat(row.modified_on)
        )
        for row in connection.execute(select(firewall_databases).order_by(firewall_databases.c.target))
    ]


def remove_database(connection: Connection, target: Target) -> None:
    connection.execute(delete(firewall_databases).where(firewall_databases.c.target == target.value))


def save_database(connection: Connection, made: GeoDatabase) -> None:
    remove_database(connection, made.target)
    connection.execute(
        insert(firewall_databases).values(
            target=made.target.value,
            digest=made.digest,
            name=made.name,
            prefixes=made.prefixes,
            keys=made.keys,
            modified_on=made.modified_on.isoformat(timespec="microseconds"),
        )
    )


def content(connection: Connection, digest: str) -> tuple[str, bytes] | None:
    """Kind and bytes."""
    row = connection.execute(select(firewall_contents).where(firewall_contents.c.digest == digest)).first()
    return (row.kind, zlib.decompress(row.content)) if row else None


def save_content(connection: Connection, digest: str, kind: str, content: bytes) -> None:
    if not connection.execute(select(firewall_contents.c.digest).where(firewall_contents.c.digest == digest)).first():
        packed = zlib.compress(content, level=1)  # a million lines in a fifth of a second
        connection.execute(insert(firewall_contents).values(digest=digest, kind=kind, content=packed))


def forget_contents(connection: Connection) -> None:
    """Delete what no list and no database is."""
    used = select(firewall_lists.c.digest).union(select(firewall_databases.c.digest))
    connection.execute(delete(firewall_contents).where(firewall_contents.c.digest.not_in(used)))


def _list(row: Row) -> List:
    return List(
        id=row.id,
        name=row.name,
        description=row.description,
        digest=row.digest,
        ipv4=row.ipv4,
        ipv6=row.ipv6,
        created_on=datetime.fromisoformat(row.created_on),
        modified_on=datetime.fromisoformat(row.modified_on),
    )
