"""Requests that have been served, kept for a day, so that asking again changes nothing twice."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select

from causeway.store.tables import repeats

KEPT = timedelta(hours=24)


class Served(NamedTuple):
    """`asked` is a digest of the request, `made` the id of what came of it."""

    asked: str
    made: str


def remember(connection: Connection, key: str, served: Served, now: datetime) -> None:
    connection.execute(delete(repeats).where(repeats.c.created_on < _text(now - KEPT)))
    connection.execute(
        insert(repeats).values(key=digest(key), asked=served.asked, made=served.made, created_on=_text(now))
    )


def recall(connection: Connection, key: str, now: datetime) -> Served | None:
    query = select(repeats).where(repeats.c.key == digest(key), repeats.c.created_on >= _text(now - KEPT))
    row = connection.execute(query).first()
    return Served(row.asked, row.made) if row else None


def digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
