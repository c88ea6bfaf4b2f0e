"""The URL of a database is in the arguments of a process, which everybody on the machine sees."""

import pytest

from causeway.model.database_url import BadUrl, check_database_url

REFUSED = [  # URL                                                       why
    ("postgresql://causeway:secret@127.0.0.1/causeway", "pgpass"),
    ("postgresql://causeway@127.0.0.1/causeway?password=secret", "pgpass"),
    ("postgresql://causeway@db.example.net/causeway", "sslmode=verify-full"),
    ("postgresql://causeway@/causeway?host=db.example.net", "sslmode=verify-full"),
    ("postgresql://causeway@127.0.0.1", "not like"),
    ("mysql://causeway@127.0.0.1/causeway", "not like"),
    ("postgresql://[::1/causeway", "no URL"),
    ("causeway", "not like"),
]


@pytest.mark.parametrize(("given", "why"), REFUSED)
def test_a_url_that_is_refused_says_why_and_tells_no_password(given: str, why: str) -> None:
    with pytest.raises(BadUrl) as refused:
        check_database_url(given)
    assert why in str(refused.value)
    assert "secret" not in str(refused.value)


TAKEN = [
    "postgresql://causeway@127.0.0.1:5432/causeway?passfile=/etc/causeway/pgpass",
    "postgresql://causeway@[::1]/causeway",
    "postgresql://causeway@/causeway?host=/run/postgresql",
    "postgresql:///causeway?service=causeway",
    "postgresql://causeway@db.example.net/causeway?sslmode=verify-full&sslrootcert=/etc/ca.crt",
    "postgresql://causeway@10.0.0.5/causeway?sslmode=disable",
]


@pytest.mark.parametrize("given", TAKEN)
def test_a_url_without_a_secret_and_with_a_safe_way_is_taken(given: str) -> None:
    check_database_url(given)
