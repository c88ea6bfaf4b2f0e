"""One of several control nodes writes: who has lost the lease cannot commit, and who does not know it, neither."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.patience import eventually
from support.postgres import PostgresServer

from causeway.store import leases, sequences
from causeway.store.database import Behind, Database, NotLeading, StoreError
from causeway.store.leases import Lease

LEASE_S = 60.0
OVER_S = 0.01


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.fixture
def open_database(url: str) -> Iterator[object]:
    """As each control node opens it for itself."""
    with ExitStack() as opened:

        def make() -> Database:
            database = Database.open(url)
            opened.callback(database.close)
            return database

        yield make


@pytest.fixture
def ams(open_database) -> Database:  # type: ignore[no-untyped-def]
    return open_database()  # type: ignore[no-any-return]


@pytest.fixture
def fra(open_database) -> Database:  # type: ignore[no-untyped-def]
    return open_database()  # type: ignore[no-any-return]


def take(database: Database, name: str, lease_s: float = LEASE_S) -> int | None:
    with database.lease() as connection:
        token = leases.take(connection, name, f"http://{name}", lease_s)
        if token is not None:
            database.known_writes = leases.writes(connection)
            database.fence = lambda: token
    return token


def seen(database: Database) -> Lease:
    with database.lease() as connection:
        return leases.read(connection)


def write(database: Database, version: int) -> None:
    with database.write() as connection:
        sequences.set_snapshot_version(connection, version)


def version(database: Database) -> int:
    with database.read() as connection:
        return sequences.snapshot_version(connection)


def test_one_has_it_until_it_is_over(ams: Database, fra: Database) -> None:
    assert take(ams, "ams", OVER_S) == 1
    eventually(lambda: seen(ams).left_s < 0)
    assert take(fra, "fra") == 2
    assert take(ams, "ams") is None
    assert (seen(ams).holder, seen(ams).url, seen(ams).token) == ("fra", "http://fra", 2)


def test_who_has_it_keeps_it_and_gives_it_back(ams: Database, fra: Database) -> None:
    token = take(ams, "ams", OVER_S)
    assert token
    with ams.lease() as connection:
        assert leases.renew(connection, token, LEASE_S)
    assert take(fra, "fra") is None
    with ams.lease() as connection:
        leases.release(connection, token)
    assert take(fra, "fra") == 2
    with ams.lease() as connection:
        assert not leases.renew(connection, token, LEASE_S)


def test_who_has_lost_it_writes_nothing(ams: Database, fra: Database) -> None:
    take(ams, "ams", OVER_S)
    write(ams, 1)
    eventually(lambda: take(fra, "fra") is not None)
    with pytest.raises(NotLeading):
        write(ams, 99)
    write(fra, 2)
    assert version(ams) == 2


def test_nobody_takes_it_from_who_is_writing(ams: Database, fra: Database) -> None:
    take(ams, "ams", OVER_S)
    with ams.write() as connection:
        eventually(lambda: seen(fra).left_s < 0)
        with pytest.raises(StoreError, match="lock timeout"):
            take(fra, "fra")
        sequences.set_snapshot_version(connection, 7)
    assert take(fra, "fra") == 2
    assert version(fra) == 7


def test_who_stands_still_within_a_transaction_is_cut_off_and_has_written_nothing(ams: Database, fra: Database) -> None:
    take(ams, "ams", OVER_S)

    def is_taken() -> bool:
        try:
            return take(fra, "fra") is not None
        except StoreError:  # the row is locked
            return False

    with pytest.raises(StoreError), ams.write() as connection:
        sequences.set_snapshot_version(connection, 99)
        eventually(is_taken, 15)
    assert version(fra) == 0


def test_who_does_not_know_what_is_stored_writes_nothing_until_it_does(ams: Database) -> None:
    take(ams, "ams")
    write(ams, 1)
    ams.known_writes -= 1  # as if the answer to the last commit was lost
    with pytest.raises(Behind):
        write(ams, 99)
    ams.known_writes = seen(ams).writes
    write(ams, 2)
    assert version(ams) == 2


def test_what_is_rolled_back_was_no_write(ams: Database) -> None:
    take(ams, "ams")
    with pytest.raises(ZeroDivisionError), ams.write():
        raise ZeroDivisionError
    write(ams, 1)
    assert seen(ams).writes == 1


def test_a_token_that_was_seen_is_never_given_again(ams: Database) -> None:
    with ams.lease() as connection:
        assert leases.take(connection, "ams", "http://ams", OVER_S, above=17) == 18
    token = eventually(lambda: take(ams, "ams"))
    assert token == 19
    with ams.lease() as connection:
        assert leases.raise_token(connection, token, 41) == 42
        assert leases.raise_token(connection, token, 50) is None, "it is not that holder's any more"


def test_nodes_are_known_by_what_they_tell(ams: Database) -> None:
    with ams.lease() as connection:
        leases.tell(connection, "fra", "http://fra", "1.0", is_connected=False)
        leases.tell(connection, "ams", "http://ams", "1.0", is_connected=True)
        leases.tell(connection, "fra", "http://fra", "1.1", is_connected=True)
        found = [(node.name, node.software, node.is_connected) for node in leases.every_node(connection)]
    assert found == [("ams", "1.0", True), ("fra", "1.1", True)]


def test_a_network_is_said_once(ams: Database) -> None:
    with ams.lease() as connection:
        assert leases.set_network(connection, "one") == "one"
        assert leases.set_network(connection, "other") == "one"


def test_a_database_that_sorts_by_a_language_is_refused(postgres: PostgresServer, url: str) -> None:
    if not postgres.do("SELECT 1 FROM pg_collation WHERE collprovider = 'i' LIMIT 1"):
        pytest.skip("this PostgreSQL has no ICU")
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.do(f"DROP DATABASE {name}")
    postgres.do(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    with pytest.raises(StoreError, match="--locale C"):
        Database.open(url)


def test_a_server_that_is_not_there_is_said_so() -> None:
    with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
        Database.open("postgresql://causeway@127.0.0.1:1/causeway")
