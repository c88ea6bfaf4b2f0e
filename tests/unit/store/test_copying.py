"""What one control node has stored is the beginning of several: all of it or nothing, and never between other rows."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from support.postgres import PostgresServer

from causeway.model.zone import Account, Scope, Token, Zone
from causeway.store import firewall_lists, leases, sequences, tokens, zones
from causeway.store.copying import copy
from causeway.store.database import Database, StoreError
from causeway.store.tables import metadata, repeats

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACCOUNT = Account("a" * 32, "default", NOW)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Database]:
    with closing(Database.open(tmp_path / "causeway.sqlite3")) as database:
        with database.write() as connection:
            zones.add_account(connection, ACCOUNT)
            for number in range(1_100):
                zones.add(connection, Zone(f"{number:032x}", ACCOUNT.id, f"n{number}.net", NOW, NOW))
            tokens.add(connection, Token("b" * 32, "ci – Ü", Scope.READ, NOW), "h" * 64)
            sequences.set_snapshot_version(connection, 41)
            firewall_lists.save_content(connection, "d" * 64, "list", bytes(range(256)) * 1_000)
        yield database


@pytest.fixture
def target(postgres: PostgresServer) -> Iterator[Database]:
    with closing(Database.open(postgres.database())) as database:
        yield database


def everything(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.read() as connection:
        return {
            table.name: sorted(tuple(row) for row in connection.execute(select(table)))
            for table in metadata.sorted_tables
            if not table.name.startswith("control_")
        }


def test_everything_is_there_afterwards(source: Database, target: Database) -> None:
    copied = copy(source, target)
    assert everything(target) == everything(source)
    assert (copied["zones"], copied["tokens"], copied["applications"]) == (1_100, 1, 0)


def test_nothing_is_put_between_what_is_there(source: Database, target: Database) -> None:
    with target.write() as connection:
        zones.add_account(connection, ACCOUNT)
    before = everything(target)
    with pytest.raises(StoreError, match="not empty"):
        copy(source, target)
    assert everything(target) == before


def test_nothing_is_taken_from_under_a_node_that_leads(source: Database, target: Database) -> None:
    with target.lease() as connection:
        leases.take(connection, "ams", "http://ams", 60.0)
    with pytest.raises(StoreError, match="ams leads"):
        copy(source, target)


def test_what_cannot_be_taken_over_leaves_the_other_database_empty(source: Database, target: Database) -> None:
    with source.write() as connection:
        connection.execute(
            insert(repeats).values(key="k", asked="\0", made="m", created_on="2026")
        )  # not in PostgreSQL
    empty = everything(target)
    with pytest.raises(StoreError):
        copy(source, target)
    assert everything(target) == empty
