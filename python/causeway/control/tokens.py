"""API tokens: made, shown once, checked in constant time, revoked."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from causeway.control.plane import Plane, now
from causeway.model.problem import Code, Problem
from causeway.model.zone import Scope, Token
from causeway.store import tokens as stored

VALID = re.compile(r"[0-9A-Za-z_-]{40,80}")
ROOT_ID = "0" * 32


class Keyring:
    """Who may ask. Values are never kept, only their SHA-256: they are random, so a plain hash cannot be searched."""

    def __init__(self, root_value: str, root_created_on: Token | None = None) -> None:
        self._root_hash = digest(root_value)
        self._root = Token(ROOT_ID, "root", Scope.WRITE, now())
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
        value = secrets.token_urlsafe(32)
        token = Token(secrets.token_hex(16), name, scope, now())
        with plane.writing() as connection:
            stored.add(connection, token, digest(value))
        self.load(plane)
        return token, value

    def revoke(self, plane: Plane, token_id: str) -> None:
        if token_id == ROOT_ID:
            raise Problem(Code.CONFLICT, "the root token is not revoked here: replace DATA_DIR/token and restart")
        with plane.writing() as connection:
            if not stored.remove(connection, token_id):
                raise Problem(Code.NOT_FOUND, f"there is no token {token_id}")
        self.load(plane)

    def list(self, plane: Plane) -> list[Token]:
        with plane.reading() as connection:
            return [self._root, *stored.every(connection)]


def digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
