"""Take everything of one database over into another, empty one: from a file of SQLite to PostgreSQL. All or nothing."""

from __future__ import annotations

from sqlalchemy import func, insert, select, update

from causeway.store import leases
from causeway.store.database import Database, StoreError
from causeway.store.tables import accounts, control_lease, control_nodes, metadata

_AT_ONCE = 500  # rows
_OF_NODES = {control_lease, control_nodes}  # who leads there is that database's own


def copy(source: Database, target: Database) -> dict[str, int]:
    """Answer how many rows there were, by table.

    Raises:
        StoreError: one of them fails, the target is in use or is not empty; nothing was copied.
    """
    copied = {}
    with source.read() as here, target.write() as there:
        lease = leases.read(there)
        if lease.left_s > 0:
            raise StoreError(f"control node {lease.holder} leads with that database: stop all nodes first")
        if there.execute(select(func.count()).select_from(accounts)).scalar_one():
            raise StoreError("that database is not empty: make another one, for nothing is put between what is there")
        for table in metadata.sorted_tables:
            if table in _OF_NODES:
                continue
            count = 0
            for rows in here.execute(select(table)).mappings().partitions(_AT_ONCE):
                there.execute(insert(table), [dict(row) for row in rows])
                count += len(rows)
            copied[table.name] = count
        there.execute(update(control_lease).values(writes=control_lease.c.writes + 1))  # nodes that wait read it anew
    return copied
