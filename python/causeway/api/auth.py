"""Who asks, and may they: Bearer tokens with scopes, and a brake on guessing.

The brake counts failures per client address in a bounded table, so that it cannot be made to eat memory. A right
token is never kept waiting: with 40 characters there is nothing to guess, and nobody can lock the operator out.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from fastapi import Request

from causeway.control.tokens import Keyring
from causeway.model.problem import Code, Problem
from causeway.model.zone import Scope, Token

_FAILURES = 20  # then the address waits
_WINDOW_S = 60.0
_ADDRESSES = 10_000


@dataclass(slots=True)
class _Failures:
    count: int
    since_s: float


class Brake:
    """Failed logins per client address; an IPv6 client counts by its /64, which is what one customer gets."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def failed(self, client: str, now_s: float) -> None:
        """Count a failure.

        Raises:
            Problem: there were too many of late; it says how long to wait.
        """
        client = _group(client)
        failures = self._failures.get(client)
        if failures is None or now_s - failures.since_s >= _WINDOW_S:
            failures = self._failures[client] = _Failures(0, now_s)
        self._failures.move_to_end(client)
        while len(self._failures) > _ADDRESSES:
            self._failures.popitem(last=False)
        failures.count += 1
        if failures.count > _FAILURES:
            wait_s = int(failures.since_s + _WINDOW_S - now_s) + 1
            raise Problem(
                Code.TOO_MANY_LOGINS,
                f"more than {_FAILURES} failed logins from {client}: try again in {wait_s} s",
                side="client",
                retry_after_s=wait_s,
            )


async def may_read(request: Request) -> Token:
    """The token of the request.

    Raises:
        Problem: none, a wrong one, or too many wrong ones.
    """
    state = request.app.state
    keyring: Keyring = state.keyring
    brake: Brake = state.brake
    header = request.headers.get("authorization", "")
    if not header:
        old = any(request.headers.get(name) for name in ("x-auth-key", "x-auth-user-service-key"))
        why = "global API keys (X-Auth-Key) do not exist here" if old else "no token was sent"
        raise _unknown(f"{why}: send the header Authorization: Bearer TOKEN (the first one is in DATA_DIR/token)")
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "bearer":
        raise _unknown(f"the scheme {scheme[:20]!r} is not known: send the header Authorization: Bearer TOKEN")
    token = keyring.check(value.strip())
    if token is None:
        brake.failed(request.client.host if request.client else "", time.monotonic())
        raise _unknown("the token is not valid: it may be mistyped, revoked, or of another server")
    return token


async def may_write(request: Request) -> Token:
    """As `may_read`, and the token may change things."""
    token = await may_read(request)
    if token.scope is not Scope.WRITE:
        raise Problem(
            Code.NOT_PERMITTED, f"token {token.name!r} may only read: use one with scope write", side="client"
        )
    return token


def _unknown(message: str) -> Problem:
    return Problem(Code.AUTHENTICATION, message, side="client")


def _group(client: str) -> str:
    try:
        address = ip_address(client)
    except ValueError:
        return client
    return str(ip_network((address, 64), strict=False)) if address.version == 6 else client
