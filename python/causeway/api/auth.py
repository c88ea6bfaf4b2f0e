"""Who asks, and may they: Bearer tokens with scopes, and a brake on guessing.

The brake counts failures per client address in a bounded table, so that it cannot be made to eat memory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from fastapi import Request

from causeway.control.tokens import Keyring
from causeway.model.problem import Code, Problem
from causeway.model.zone import Scope, Token

_FAILURES = 10  # then the address waits
_WINDOW_S = 60.0
_ADDRESSES = 10_000


class TooManyLogins(Problem):
    """Carries how long to wait."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            Code.TOO_MANY_LOGINS,
            f"too many failed logins from your address: try again in {retry_after_s} s",
            side="client",
        )
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class _Failures:
    count: int
    since_s: float


class Brake:
    def __init__(self) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def check(self, address: str, now_s: float) -> None:
        """Raise TooManyLogins if this address has failed too often of late."""
        failures = self._failures.get(address)
        if failures is None:
            return
        left_s = failures.since_s + _WINDOW_S - now_s
        if left_s <= 0:
            del self._failures[address]
        elif failures.count >= _FAILURES:
            raise TooManyLogins(int(left_s) + 1)

    def failed(self, address: str, now_s: float) -> None:
        failures = self._failures.setdefault(address, _Failures(0, now_s))
        failures.count += 1
        self._failures.move_to_end(address)
        while len(self._failures) > _ADDRESSES:
            self._failures.popitem(last=False)


def authenticate(request: Request) -> Token:
    """The token of the request.

    Raises:
        Problem: none, a wrong one, or too many wrong ones.
    """
    brake: Brake = request.app.state.brake
    keyring: Keyring = request.app.state.keyring
    address, now_s = request.client.host if request.client else "", time.monotonic()
    header = request.headers.get("authorization", "")
    if not header:
        if request.headers.get("x-auth-key") or request.headers.get("x-auth-user-service-key"):
            raise Problem(
                Code.AUTHENTICATION,
                "global API keys do not exist here: send Authorization: Bearer TOKEN",
                side="client",
            )
        raise Problem(
            Code.AUTHENTICATION,
            "no token was sent: send Authorization: Bearer TOKEN (see DATA_DIR/token)",
            side="client",
        )
    scheme, _, value = header.partition(" ")
    token = keyring.check(value.strip()) if scheme.lower() == "bearer" else None
    if token is None:
        # A right token is never kept waiting: the brake is for guesses.
        brake.check(address, now_s)
        brake.failed(address, now_s)
        raise Problem(Code.AUTHENTICATION, "the token is not valid: it may be mistyped or revoked", side="client")
    return token


def may_read(request: Request) -> Token:
    return authenticate(request)


def may_write(request: Request) -> Token:
    token = authenticate(request)
    if token.scope is not Scope.WRITE:
        raise Problem(
            Code.NOT_PERMITTED, f"token {token.name!r} may only read: use one with scope write", side="client"
        )
    return token
