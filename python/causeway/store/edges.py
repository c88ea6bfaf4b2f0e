"""What the operator has said of edges of other machines."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from causeway.store.tables import edges


def drained(connection: Connection) -> frozenset[str]:
    """The names of those that are to serve nobody."""
    return frozenset(connection.execute(select(edges.c.name).where(edges.c.is_drained == 1)).scalars())


def set_drained(connection: Connection, name: str, *, is_drained: bool) -> None:
    connection.execute(delete(edges).where(edges.c.name == name))
    if is_drained:
        connection.execute(insert(edges).values(name=name, is_drained=1))
