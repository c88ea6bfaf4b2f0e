"""What is set for a zone as a whole. What was never set is not there, and has its default."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from causeway.model.zone import Setting
from causeway.store.tables import zone_settings as table

SMART_ROUTING = "smart_routing"


def find(connection: Connection, zone_id: str, name: str) -> Setting:
    row = connection.execute(select(table).where(table.c.zone_id == zone_id, table.c.name == name)).first()
    return Setting(row.value == "on", datetime.fromisoformat(row.modified_on)) if row else Setting()


def put(connection: Connection, zone_id: str, name: str, modified_on: datetime, *, is_on: bool) -> None:
    connection.execute(delete(table).where(table.c.zone_id == zone_id, table.c.name == name))
    values = {"value": "on" if is_on else "off", "modified_on": modified_on.isoformat()}
    connection.execute(insert(table).values(zone_id=zone_id, name=name, **values))


def zones_with(connection: Connection, name: str) -> frozenset[str]:
    """Ids of the zones in which it is on."""
    query = select(table.c.zone_id).where(table.c.name == name, table.c.value == "on")
    return frozenset(connection.execute(query).scalars())


def remove_all(connection: Connection, zone_id: str) -> None:
    connection.execute(delete(table).where(table.c.zone_id == zone_id))
