"""Open the database, bring it to the newest schema, hand out transactions. One writer at a time.

SQLite for one control node, PostgreSQL for several: there, each write is fenced by the lease of the node that leads.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from causeway.store import dialects, leases
from causeway.store.dialects import WRITING
from causeway.store.rows import RowError

NEWEST_SCHEMA = "0008"
_MIGRATIONS = Path(__file__).parent / "migrations"


class StoreError(Exception):
    """The database cannot be used; the message says which and why."""


class NotLeading(StoreError):
    """Another control node writes; nothing was changed."""


class Behind(StoreError):
    """What this node knows of the database is not what is there: it must be read anew; nothing was changed."""


class Database:
    """Everything durable of one control node, or of several.

    `fence`: the token of this node's lease; raises NotLeading. None: there are no others.
    `known_writes`: the transaction that this node has last written, or read everything after.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._reading = dialects.reading(engine)
        self._name = name
        self._writing = threading.RLock()
        self.fence: Callable[[], int] | None = None
        self.known_writes = 0

    @classmethod
    def open(cls, where: Path | str) -> Database:
        """Open the database of a file, made if it is not there, or of a URL of PostgreSQL; and migrate it.

        Raises:
            StoreError: it is damaged, of a newer schema, or cannot be written or reached.
        """
        if isinstance(where, Path):
            database = cls(dialects.sqlite_engine(where), str(where))
        else:
            database = cls(dialects.postgresql_engine(where), where.partition("?")[0])
        try:
            with database._told(), database._begun() as connection:
                if why := dialects.check(connection):
                    raise StoreError(f"the database {database._name} {why}")
                _migrate(connection, database._name)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; raises StoreError if the database fails."""
        with self._told(), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One writer at a time; committed at the end, rolled back on any exception.

        Raises:
            NotLeading: another node does.
            Behind: and it has written meanwhile, or what became of our last transaction is not known.
            StoreError: the database fails.
        """
        with self._writing, self._told():
            token = self.fence() if self.fence else None
            with self._begun() as connection:
                number = self._fenced(connection, token) if token is not None else 0
                yield connection
            self.known_writes = number

    @contextmanager
    def lease(self) -> Iterator[Connection]:
        """For the lease itself and who is there: not fenced, each statement for itself."""
        with self._told(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def is_known(self) -> bool:
        """Whether this node knows all that is stored. Waits for a transaction of its own."""
        with self._writing, self.read() as connection:
            return leases.writes(connection) == self.known_writes

    def cut(self) -> None:
        """End all connections, whoever waits on them: a server that stands still says nothing, not even no."""
        dialects.cut(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        with self._engine.execution_options(**{WRITING: True}).begin() as connection:
            yield connection

    def _fenced(self, connection: Connection, token: int) -> int:
        number = leases.fence(connection, token)
        if number is None:
            raise NotLeading("another control node leads")
        if number != self.known_writes + 1:
            raise Behind("what is stored was changed meanwhile, and is being read anew")
        return number

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, RowError) as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            raise StoreError(f"the database {self._name} failed: {cause}") from error


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
