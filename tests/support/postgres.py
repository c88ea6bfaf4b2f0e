"""A PostgreSQL server of the tests' own: in a folder of its own, as a user without rights, on loopback."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest

from support.patience import eventually
from support.ports import free_port
from support.program import Program, Programs, run

_USER = "postgres"  # the server refuses to be root
PASSWORD = "only-for-tests"


def need_postgresql() -> Path:
    """The folder of its programs, or skip the test."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip("not installed: postgresql (scripts/apt tests installs what the tests use)")
    return found[-1].parent


class PostgresServer:
    """Started, killed, and started again on what it has stored. It asks for a password."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._bin, self._programs, self.folder = need_postgresql(), programs, folder
        self._as_user: tuple[str, ...] = ()
        if os.geteuid() == 0:
            owner = pwd.getpwnam(_USER)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._as_user = ("setpriv", f"--reuid={_USER}", f"--regid={owner.pw_gid}", "--clear-groups", "--")
        self.port = free_port()
        self.passfile = folder / "pgpass"
        self.passfile.write_text(f"127.0.0.1:*:*:causeway:{PASSWORD}\n")
        self.passfile.chmod(0o600)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        made = (self._bin / "initdb", "-D", folder / "data", "-U", "causeway", "--pwfile", folder / "password")
        run(*self._as_user, *made, "-A", "scram-sha-256", "-E", "UTF8", "--locale", "C", "--no-sync", cwd=folder)
        self.program: Program | None = None
        self._numbers = count()

    def start(self) -> "PostgresServer":
        flags = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder, "fsync": "off"
        }  # fmt: skip
        told = [part for name, value in flags.items() for part in ("-c", f"{name}={value}")]
        self.program = self._programs.start(
            *self._as_user, self._bin / "postgres", "-D", self.folder / "data", *told, cwd=self.folder
        )
        eventually(self._answers, 20)
        return self

    def _answers(self) -> bool:
        try:
            self.do("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def do(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """As an operator with a shell would."""
        told = {"host": "127.0.0.1", "port": self.port, "user": "causeway", "password": PASSWORD}
        with psycopg.connect(dbname=database, autocommit=True, connect_timeout=3, **told) as connection:  # type: ignore[arg-type]
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    def database(self, port: int | None = None) -> str:
        """The URL of a new, empty one; `port`: of a way to the server that is not the straight one."""
        name = f"causeway{next(self._numbers)}"
        self.do(f"CREATE DATABASE {name}")
        return f"postgresql://causeway@127.0.0.1:{port or self.port}/{name}?passfile={self.passfile}"

    def stop(self) -> None:
        assert self.program
        self.program.end()


@contextmanager
def postgres_server(programs: Programs) -> Iterator[PostgresServer]:
    need_postgresql()
    folder = Path(tempfile.mkdtemp(prefix="causeway-postgres-"))  # pytest's own are for this user alone
    server = PostgresServer(programs, folder)
    try:
        yield server.start()
    finally:
        if server.program:
            server.program.end()
        shutil.rmtree(folder, ignore_errors=True)
