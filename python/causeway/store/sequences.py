"""Numbers that only grow."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from causeway.store.tables import sequences

_SNAPSHOT = "snapshot_version"


def snapshot_version(connection: Connection) -> int:
    row = connection.execute(select(sequences.c.value).where(sequences.c.name == _SNAPSHOT)).first()
    return row.value if row else 0


def set_snapshot_version(connection: Connection, version: int) -> None:
    changed = connection.execute(update(sequences).where(sequences.c.name == _SNAPSHOT).values(value=version))
    if changed.rowcount == 0:
        connection.execute(insert(sequences).values(name=_SNAPSHOT, value=version))
