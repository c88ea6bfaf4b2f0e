"""Attacks that edges have told of, the newest of them: rows that are saved again for as long as an attack goes on."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, true, update

from causeway.model.mitigation import Attack
from causeway.store.rows import Row, RowError
from causeway.store.tables import attacks

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Attack).decode
_NEWEST_FIRST = (attacks.c.started_unix_ms.desc(), attacks.c.id)


@dataclass(frozen=True, slots=True)
class AttackFilter:
    """None asks for nothing. `since_unix_ms`: attacks that went on at or after that time."""

    application: str | None = None
    is_active: bool | None = None
    since_unix_ms: int | None = None

    @property
    def condition(self) -> ColumnElement[bool]:
        is_open = attacks.c.ended_unix_ms.is_(None)
        return and_(
            true() if self.application is None else attacks.c.application == self.application,
            true() if self.is_active is None else is_open if self.is_active else ~is_open,
            true() if self.since_unix_ms is None else is_open | (attacks.c.ended_unix_ms >= self.since_unix_ms),
        )


def save(connection: Connection, attack: Attack, seen_unix_ms: int) -> None:
    """Add it, or replace what was known of it. `seen_unix_ms`: when an edge told of it."""
    row = {
        "application": attack.application,
        "started_unix_ms": attack.started_unix_ms,
        "ended_unix_ms": attack.ended_unix_ms,
        "seen_unix_ms": seen_unix_ms,
        "body": _encode(attack).decode(),
    }
    if not connection.execute(update(attacks).where(attacks.c.id == attack.id).values(row)).rowcount:
        connection.execute(insert(attacks).values(id=attack.id, **row))


def end_unseen(connection: Connection, attack_id: str) -> None:
    """End an attack that no edge tells of any more, where it was last seen."""
    row = connection.execute(select(attacks).where(attacks.c.id == attack_id)).first()
    if row and row.ended_unix_ms is None:
        ended = msgspec.structs.replace(_attack(row), ended_unix_ms=max(row.seen_unix_ms, row.started_unix_ms))
        save(connection, ended, row.seen_unix_ms)


def keep_newest(connection: Connection, most: int) -> None:
    """Delete all but the newest."""
    newest = select(attacks.c.id).order_by(*_NEWEST_FIRST).limit(most)
    if connection.execute(select(func.count()).select_from(attacks)).scalar_one() > most:
        connection.execute(delete(attacks).where(attacks.c.id.not_in(newest)))


def active(connection: Connection) -> list[Attack]:
    query = select(attacks).where(AttackFilter(is_active=True).condition).order_by(*_NEWEST_FIRST)
    return [_attack(row) for row in connection.execute(query)]


def find(connection: Connection, attack_id: str) -> Attack | None:
    row = connection.execute(select(attacks).where(attacks.c.id == attack_id)).first()
    return _attack(row) if row else None


def page(connection: Connection, wanted: AttackFilter, *, skip: int, most: int) -> tuple[list[Attack], int]:
    """A page, the newest first, and how many there are in all."""
    chosen = select(attacks).where(wanted.condition)
    total = connection.execute(select(func.count()).select_from(chosen.subquery())).scalar_one()
    rows = connection.execute(chosen.order_by(*_NEWEST_FIRST).offset(skip).limit(most))
    return [_attack(row) for row in rows], total


def _attack(row: Row) -> Attack:
    try:
        return _decode(row.body)
    except msgspec.MsgspecError as error:
        raise RowError(f"attack {row.id} cannot be read ({error})") from error
