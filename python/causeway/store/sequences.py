"""Numbers that only grow, and answers to repeated requests."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from causeway.store.tables import repeats, sequences

_SNAPSHOT = "snapshot_version"


def snapshot_version(connection: Connection) -> int:
    row = connection.execute(select(sequences.c.value).where(sequences.c.name == _SNAPSHOT)).first()
    return row.value if row else 0


def set_snapshot_version(connection: Connection, version: int) -> None:
    changed = connection.execute(update(sequences).where(sequences.c.name == _SNAPSHOT).values(value=version))
    if changed.rowcount == 0:
        connection.execute(insert(sequences).values(name=_SNAPSHOT, value=version))


def remember(connection: Connection, key: str, application_id: str, now: datetime) -> None:
    connection.execute(insert(repeats).values(key=key, application_id=application_id, created_on=now.isoformat()))


def remembered(connection: Connection, key: str, since: datetime) -> str | None:
    """The application that an earlier request with this key made; older keys are forgotten."""
    connection.execute(delete(repeats).where(repeats.c.created_on < since.isoformat()))
    row = connection.execute(select(repeats.c.application_id).where(repeats.c.key == key)).first()
    return row.application_id if row else None
