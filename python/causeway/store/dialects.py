"""What SQLite and PostgreSQL do differently: how each is reached, how a transaction begins, what is asked of it first.

SQLite in WAL mode with `synchronous=FULL`: what was committed survives a power cut. PostgreSQL does so by itself.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url

WRITING = "causeway_writing"
_BUSY_TIMEOUT_S = 5.0  # another program holds the database: a shell, a backup
_OPENING = 0x63617573  # the lock that nodes take which migrate: "caus"
# On both sides, so that a node which is cut off or stands still holds nobody up for longer than that.
_CONNECT_S, _LOST_S = 3, 5
_SESSION_MS = {
    "lock_timeout": 3_000,
    "idle_in_transaction_session_timeout": 5_000,
    "statement_timeout": 30_000,  # to store a database of addresses takes a second
}


_CONNECTED: WeakKeyDictionary[Engine, WeakSet[Any]] = WeakKeyDictionary()  # of psycopg


def sqlite_engine(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # SQLAlchemy says BEGIN itself, so that DDL and reads are in the transaction too.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock first: to find out at the first INSERT that somebody else wrote is too late to wait.
    is_writing = connection.get_execution_options().get(WRITING)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def postgresql_engine(text: str) -> Engine:
    """`text`: a URL that `model.database_url` has passed."""
    url = make_url(text).set(drivername="postgresql+psycopg")
    settings = " ".join(f"-c {name}={value}" for name, value in _SESSION_MS.items())
    told = {
        "connect_timeout": _CONNECT_S,
        "tcp_user_timeout": _LOST_S * 1000,
        "keepalives_idle": 2,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "application_name": "causeway",
        "options": settings,
    }
    given = {name: value for name, value in told.items() if name not in url.query}
    engine = create_engine(url, connect_args=given, pool_pre_ping=True, pool_size=8, max_overflow=8, pool_timeout=5)
    connected = _CONNECTED[engine] = WeakSet()
    event.listen(engine, "connect", lambda connection, _record: connected.add(connection))
    return engine


def cut(engine: Engine) -> None:
    """End what is connected to PostgreSQL, from another thread than those that wait for its answers."""
    for connection in list(_CONNECTED.get(engine, ())):
        with (
            suppress(Exception),
            socket.socket(fileno=os.dup(connection.fileno())) as end,
        ):  # it may be closed meanwhile
            end.shutdown(socket.SHUT_RDWR)


def reading(engine: Engine) -> Engine:
    """The same, for transactions that see one moment of the database."""
    if engine.dialect.name == "sqlite":  # any transaction of it does
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def check(connection: Connection) -> str | None:
    """At the start, in the first transaction, before any table is looked at: why the database cannot be used."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        return None if found == "ok" else f"is damaged ({found}): restore it from a backup"
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_OPENING})")  # two nodes may start at once
    if connection.exec_driver_sql("SHOW server_encoding").scalar_one() != "UTF8":
        return "does not store UTF-8: make it with createdb -T template0 -E UTF8 --locale C"
    if not connection.exec_driver_sql("SELECT 'B' < 'a' AND 'a-c' < 'ab'").scalar_one():
        return "sorts text by a language: make it with createdb -T template0 -E UTF8 --locale C"
    return None
