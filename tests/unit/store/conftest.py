"""The contract of the store holds for both of its databases: whoever asks for `database` is run with each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from causeway.store.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A database that does not exist yet, or is empty."""
    if request.param == "sqlite":
        return tmp_path / "causeway.sqlite3"
    url: str = request.getfixturevalue("postgres").database()
    return url


@pytest.fixture
def database(where: Path | str) -> Iterator[Database]:
    opened = Database.open(where)
    yield opened
    opened.close()
