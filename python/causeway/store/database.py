"""Open the database, bring it to the newest schema, hand out transactions.

SQLite in WAL mode with `synchronous=FULL`: what was committed survives a power cut. One writer at a time.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import SQLAlchemyError

from causeway.store.rows import RowError

NEWEST_SCHEMA = "0006"
_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_S = 5.0  # another program holds the database: a shell, a backup
_WRITING = "causeway_writing"


class StoreError(Exception):
    """The database cannot be used; the message says which and why."""


class Database:
    """Everything durable of one control node."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._writing = threading.RLock()

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open or make the database at `path` and migrate it.

        Raises:
            StoreError: it is damaged, of a newer schema, or cannot be written.
        """
        engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
        database = cls(engine, str(path))
        try:
            with database.write() as connection:
                database._check_health(connection)
                _migrate(connection, str(path))
        except BaseException:
            engine.dispose()
            raise
        return database

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; raises StoreError if the database fails."""
        with self._told(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One writer at a time; committed at the end, rolled back on any exception."""
        with self._writing, self._told():
            engine = self._engine.execution_options(**{_WRITING: True})
            with engine.begin() as connection:
                yield connection

    def close(self) -> None:
        self._engine.dispose()

    def _check_health(self, connection: Connection) -> None:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if found != "ok":
            raise StoreError(f"the database {self._name} is damaged ({found}): restore it from a backup")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, RowError) as error:
            cause = getattr(error, "orig", None) or error
            raise StoreError(f"the database {self._name} failed: {cause}") from error


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # SQLAlchemy says BEGIN itself, so that DDL and reads are in the transaction too.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A writer takes its lock first: to find out at the first INSERT that somebody else wrote is too late to wait.
    is_writing = connection.get_execution_options().get(_WRITING)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _migrate(connection: Connection, name: str) -> None:
    is_old = inspect(connection).has_table("alembic_version")
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() if is_old else None
    if found == NEWEST_SCHEMA:
        return
    # Only now: it takes half a second to import, and most starts find nothing to do.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise StoreError(f"the database {name} has schema {found}, which is newer than this program: upgrade causeway")
    command.upgrade(config, "head")
