"""What is on or off for the whole installation."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from causeway.store.tables import switches

_MITIGATION = "mitigation"


def is_mitigation_on(connection: Connection) -> bool:
    """On until somebody has switched it off."""
    found = connection.execute(select(switches.c.is_on).where(switches.c.name == _MITIGATION)).scalar()
    return found is None or bool(found)


def set_mitigation(connection: Connection, is_on: bool) -> None:
    changed = connection.execute(update(switches).where(switches.c.name == _MITIGATION).values(is_on=int(is_on)))
    if changed.rowcount == 0:
        connection.execute(insert(switches).values(name=_MITIGATION, is_on=int(is_on)))
