"""Which of several control nodes writes: one row, whose token grows with each new holder.

Who writes raises `writes` first, in the same transaction, and only while the token is its own: so the row is locked
until it commits, and who has lost the lease cannot commit. Time is the database's.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Float, cast, delete, func, insert, select, update

from causeway.store.tables import control_lease as table
from causeway.store.tables import control_nodes as nodes

_FORGOTTEN_S = 86_400.0


class Lease(NamedTuple):
    """`left_s`: until it is over; less than nothing: since then. `writes`: transactions that there were in all."""

    token: int
    holder: str
    url: str
    left_s: float
    writes: int
    network: str


class Node(NamedTuple):
    """A control node as it has told of itself. `is_connected`: with the exchange."""

    name: str
    url: str
    silent_s: float
    is_connected: bool
    software: str


def _clock() -> ColumnElement[float]:
    return cast(func.extract("epoch", func.clock_timestamp()), Float)


def read(connection: Connection) -> Lease:
    row = connection.execute(select(table, (table.c.expires_unix_s - _clock()).label("left_s"))).one()
    return Lease(row.token, row.holder, row.url, row.left_s, row.writes, row.network)


def writes(connection: Connection) -> int:
    return int(connection.execute(select(table.c.writes)).scalar_one())


def take(connection: Connection, name: str, url: str, lease_s: float, above: int = 0) -> int | None:
    """The token of a lease that was over; nothing: somebody has it. `above`: a token that somebody has seen."""
    values = {
        "token": func.greatest(table.c.token, above) + 1,
        "holder": name,
        "url": url,
        "expires_unix_s": _clock() + lease_s,
    }
    is_over = table.c.expires_unix_s < _clock()
    return connection.execute(update(table).where(is_over).values(values).returning(table.c.token)).scalar()


def renew(connection: Connection, token: int, lease_s: float) -> bool:
    """Whether it was still that holder's."""
    values = {"expires_unix_s": _clock() + lease_s}
    return connection.execute(update(table).where(table.c.token == token).values(values)).rowcount == 1


def release(connection: Connection, token: int) -> None:
    connection.execute(update(table).where(table.c.token == token).values(expires_unix_s=0.0))


def raise_token(connection: Connection, token: int, above: int) -> int | None:
    """Go on with one that is larger than that, which somebody has seen: the database was set back."""
    values = {"token": above + 1}
    return connection.execute(
        update(table).where(table.c.token == token).values(values).returning(table.c.token)
    ).scalar()


def fence(connection: Connection, token: int) -> int | None:
    """Begin to write under that token: the number of this transaction; nothing: another node leads."""
    return connection.execute(
        update(table).where(table.c.token == token).values(writes=table.c.writes + 1).returning(table.c.writes)
    ).scalar()


def set_network(connection: Connection, network: str) -> str:
    """Say by which keys edges are certified, if nobody has; answer what holds."""
    connection.execute(update(table).where(table.c.network == "").values(network=network))
    return str(connection.execute(select(table.c.network)).scalar_one())


def tell(connection: Connection, name: str, url: str, software: str, *, is_connected: bool) -> None:
    """Say that this node is there."""
    values = {"url": url, "seen_unix_s": _clock(), "is_connected": int(is_connected), "software": software}
    if not connection.execute(update(nodes).where(nodes.c.name == name).values(values)).rowcount:
        connection.execute(insert(nodes).values(name=name, **values))
    connection.execute(delete(nodes).where(nodes.c.seen_unix_s < _clock() - _FORGOTTEN_S))


def every_node(connection: Connection) -> list[Node]:
    silent = (_clock() - nodes.c.seen_unix_s).label("silent_s")
    rows = connection.execute(select(nodes, silent).order_by(nodes.c.name))
    return [Node(row.name, row.url, row.silent_s, bool(row.is_connected), row.software) for row in rows]
