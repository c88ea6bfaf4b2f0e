"""API tokens in the database: names, scopes and hashes, never values."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from causeway.model.zone import Scope, Token
from causeway.store.rows import Row
from causeway.store.tables import tokens


def add(connection: Connection, token: Token, value_hash: str) -> None:
    connection.execute(
        insert(tokens).values(
            id=token.id,
            name=token.name,
            scope=token.scope.value,
            hash=value_hash,
            created_on=token.created_on.isoformat(),
        )
    )


def remove(connection: Connection, token_id: str) -> bool:
    return connection.execute(delete(tokens).where(tokens.c.id == token_id)).rowcount > 0


def every(connection: Connection) -> list[Token]:
    return [_token(row) for row in connection.execute(select(tokens).order_by(tokens.c.created_on, tokens.c.id))]


def with_hashes(connection: Connection) -> dict[str, Token]:
    return {row.hash: _token(row) for row in connection.execute(select(tokens))}


def _token(row: Row) -> Token:
    return Token(row.id, row.name, Scope(row.scope), datetime.fromisoformat(row.created_on))
