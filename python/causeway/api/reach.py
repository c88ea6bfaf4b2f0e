"""What handlers get from the request: the control plane, ids that look like ids, how the caller asks."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Request

from causeway.control.applications import Asking
from causeway.control.plane import Plane
from causeway.control.tokens import Keyring
from causeway.model.problem import Code, Problem

_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST_KEY = 255


async def _plane(request: Request) -> Plane:
    plane: Plane = request.app.state.plane
    return plane


async def _keyring(request: Request) -> Keyring:
    keyring: Keyring = request.app.state.keyring
    return keyring


async def check_ids(request: Request) -> None:
    """Refuse what can be no id, and a filter that can match nothing that is stored, before anybody looks for it."""
    for name, value in request.query_params.multi_items():
        if "\0" in value:  # PostgreSQL has no such text
            raise Problem(
                Code.INVALID_VALUE, f"query parameter {name} has a NUL character: leave it out", side="client"
            )
    for name, value in request.path_params.items():
        if not _ID.fullmatch(value):
            raise Problem(
                Code.BAD_IDENTIFIER,
                f"could not route to {request.url.path}: {name} {value[:64]!r} is not 32 hexadecimal digits",
                side="client",
            )


async def _asking(request: Request) -> Asking:
    """`Idempotency-Key`, and the count with which the official SDKs mark a request that they send again."""
    key = request.headers.get("idempotency-key") or None
    if key and len(key) > _LONGEST_KEY:
        raise Problem(
            Code.INVALID_VALUE, f"Idempotency-Key has {len(key)} characters, the limit is {_LONGEST_KEY}", side="client"
        )
    count = request.headers.get("x-stainless-retry-count", "0")
    return Asking(key=key, is_again=count.isascii() and count.isdigit() and int(count) > 0)


PlaneOf = Annotated[Plane, Depends(_plane)]
KeyringOf = Annotated[Keyring, Depends(_keyring)]
AskingOf = Annotated[Asking, Depends(_asking)]
