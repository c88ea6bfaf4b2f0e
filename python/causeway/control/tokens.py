"""API tokens: made, shown once, checked in constant time, revoked."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from causeway.control.plane import Plane, now
from causeway.model.problem import Code, Problem
from causeway.model.zone import Scope, Token
from causeway.store import tokens as stored

ROOT_ID = "0" * 32


class Keyring:
    """Who may ask. Values are never kept, only their SHA-256: they are random, so a plain hash cannot be searched."""

    def __init__(self, root_value: str) -> None:
        self._root_hash = digest(root_value)
        self._root = Token(ROOT_ID, "root", Scope.WRITE, now())  # stands in a file or the environment
        self._known: dict[str, Token] = {}

    def load(self, plane: Plane) -> None:
        with plane.reading() as connection:
            self._known = stored.with_hashes(connection)

    def check(self, value: str) -> Token | None:
        """The token with this value, if there is one."""
        offered = digest(value)
        found = self._root if hmac.compare_digest(offered, self._root_hash) else None
        for known, token in self._known.items():
            if hmac.compare_digest(offered, known):
                found = token
        return found

    def create(self, plane: Plane, name: str, scope: Scope) -> tuple[Token, str]:
        """Make a token; the value is shown this once."""
        value = new_value()
        token = Token(secrets.token_hex(16), name, scope, now())
        with plane.writing() as connection:
            stored.add(connection, token, digest(value))
        self._known = {**self._known, digest(value): token}
        return token, value

    def revoke(self, plane: Plane, token_id: str) -> None:
        if token_id == ROOT_ID:
            raise Problem(
                Code.CONFLICT,
                "the root token cannot be revoked: delete the file token in the data directory (or change "
                "CAUSEWAY_API_TOKEN) and start causeway again",
            )
        with plane.writing() as connection:
            if not stored.remove(connection, token_id):
                raise Problem(Code.NOT_FOUND, f"there is no token {token_id}: list tokens to see their ids")
        self._known = {known: token for known, token in self._known.items() if token.id != token_id}

    def list(self, plane: Plane) -> list[Token]:
        with plane.reading() as connection:
            return [self._root, *stored.every(connection)]


def new_value() -> str:
    return secrets.token_urlsafe(32)  # 43 characters


def digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
