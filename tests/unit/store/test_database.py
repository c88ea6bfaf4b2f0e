"""The database: what its transactions promise, and what happens when it cannot keep it."""

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from causeway.model.access_rule import AccessRule, Level, Mode, Owner, Target
from causeway.model.zone import Account, Scope, Token, Zone
from causeway.store import access_rules, repeats, sequences, tokens, zones
from causeway.store.database import NEWEST_SCHEMA, Database, StoreError
from causeway.store.tables import metadata

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACCOUNT = Account("a" * 32, "default", NOW)


only_sqlite = pytest.mark.parametrize("where", ["sqlite"], indirect=True)


@pytest.fixture
def database(database: Database) -> Database:
    with database.write() as connection:
        zones.add_account(connection, ACCOUNT)
    return database


def zone(name: str, number: int = 0) -> Zone:
    return Zone(f"{number:032x}", ACCOUNT.id, name, NOW, NOW)


@only_sqlite
def test_it_survives_a_power_cut(database: Database) -> None:
    with database.read() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_it_checks_references(database: Database) -> None:
    orphan = Zone("z" * 32, "nobody", "example.net", NOW, NOW)
    with pytest.raises(StoreError) as refused, database.write() as connection:
        zones.add(connection, orphan)
    assert isinstance(refused.value.__cause__, IntegrityError)


def test_the_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_newest_schema_is_the_one_that_the_migrations_lead_to(database: Database) -> None:
    with database.read() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == NEWEST_SCHEMA


@only_sqlite
def test_a_start_with_nothing_to_migrate_does_not_import_what_migrates(tmp_path: Path, database: Database) -> None:
    code = (
        "import sys, pathlib; from causeway.store.database import Database; "
        "Database.open(pathlib.Path(sys.argv[1])).close(); print('alembic' in sys.modules)"
    )
    for file, is_needed in (("causeway.sqlite3", "False"), ("fresh.sqlite3", "True")):
        command = [sys.executable, "-c", code, str(tmp_path / file)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == is_needed


def test_opening_twice_migrates_once(where: Path | str, database: Database) -> None:
    database.close()
    again = Database.open(where)
    with again.read() as connection:
        assert zones.all_accounts(connection) == [ACCOUNT]
    again.close()


def test_an_error_inside_rolls_everything_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        zones.add(connection, zone("example.net"))
        raise ZeroDivisionError
    with database.read() as connection:
        assert zones.every(connection) == []


def test_readers_go_on_while_somebody_writes(database: Database) -> None:
    with database.write() as writer:
        zones.add(writer, zone("example.net"))
        with database.read() as reader:
            assert zones.every(reader) == []
    with database.read() as reader:
        assert len(zones.every(reader)) == 1


def test_writers_take_turns(database: Database) -> None:
    def add(number: int) -> None:
        with database.write() as connection:
            sequences.set_snapshot_version(connection, sequences.snapshot_version(connection) + 1)
            zones.add(connection, zone(f"{number}.example.net", number))

    threads = [threading.Thread(target=add, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert sequences.snapshot_version(connection) == 16


def test_a_newer_schema_is_not_touched(where: Path | str, database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = '9999'")
    database.close()
    with pytest.raises(StoreError, match="schema 9999, which is newer than this program"):
        Database.open(where)


def test_a_note_is_found_by_what_stands_in_it(database: Database) -> None:
    owner = Owner(Level.ACCOUNT, ACCOUNT.id)
    with database.write() as connection:
        for number, notes in enumerate(("50% of Abuse", "50 of abuse", "a_b")):
            value = f"192.0.2.{number}"
            rule = AccessRule(f"{number:032x}", owner, Target.IP, value, Mode.BLOCK, notes, NOW, NOW)
            access_rules.add(connection, rule)
    with database.read() as connection:

        def found(notes: str) -> list[str]:
            wanted = access_rules.RuleFilter(notes=notes)
            page, _ = access_rules.page(connection, owner, wanted, order=None, is_descending=False, skip=0, most=9)
            return [rule.notes for rule in page]

        assert found("50% OF") == ["50% of Abuse"], "a percent sign stands for itself"
        assert found("ABUSE") == ["50% of Abuse", "50 of abuse"]
        assert found("a_") == ["a_b"]


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_said_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "causeway.sqlite3"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"causeway\.sqlite3"):
        Database.open(path)


def test_a_folder_with_percent_signs_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "50%25 off").mkdir()
    Database.open(tmp_path / "50%25 off/causeway.sqlite3").close()


OWNERS = [  # hostname                     belongs to
    ("example.net", "example.net"),
    ("a.example.net", "example.net"),
    ("a.sub.example.net", "sub.example.net"),
    ("sub.example.net", "sub.example.net"),
    ("xsub.example.net", "example.net"),
    ("notexample.net", None),
    ("net", None),
    ("a.example.net.org", None),
]


def test_a_hostname_belongs_to_the_most_specific_zone(database: Database) -> None:
    with database.write() as connection:
        for number, name in enumerate(("sub.example.net", "example.net", "net.org.example", "other.net")):
            zones.add(connection, zone(name, number))
        assert [(name, zones.owner(connection, name)) for name, _ in OWNERS] == OWNERS


def test_a_served_request_is_remembered_for_a_day(database: Database) -> None:
    served = repeats.Served("digest", "f" * 32)
    with database.write() as connection:
        repeats.remember(connection, "key", served, NOW)
        assert repeats.recall(connection, "key", NOW + timedelta(hours=23)) == served
        assert repeats.recall(connection, "key", NOW + timedelta(hours=25)) is None
        assert repeats.recall(connection, "other", NOW) is None
        repeats.remember(connection, "key2", served, NOW + timedelta(hours=25))
        assert connection.exec_driver_sql("select count(*) from repeats").scalar_one() == 1, "old ones are dropped"
        repeats.remember(connection, "key\udcff", served, NOW + timedelta(hours=25))


def test_tokens_are_kept_by_their_hash(database: Database) -> None:
    token = Token("b" * 32, "ci", Scope.READ, NOW)
    with database.write() as connection:
        tokens.add(connection, token, "h" * 64)
        assert tokens.with_hashes(connection) == {"h" * 64: token}
        assert tokens.remove(connection, token.id)
        assert not tokens.remove(connection, token.id)
