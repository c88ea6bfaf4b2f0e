"""Request bodies: limited while they arrive, then strict JSON."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from causeway.api.envelope import refusal
from causeway.model.problem import Code, Problem

MOST_BYTES = 1024 * 1024


def _too_large() -> Problem:
    return Problem(
        Code.BODY_TOO_LARGE, f"the body is over the limit of {MOST_BYTES} bytes: send less at once", side="client"
    )


class BodyLimit:
    """Refuse bodies over the limit, announced or not, before they are read whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        taken_bytes = 0

        async def limited() -> Message:
            nonlocal taken_bytes
            message = await receive()
            taken_bytes += len(message.get("body", b""))
            if taken_bytes > MOST_BYTES:
                raise _too_large()
            return message

        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MOST_BYTES:
            return await refusal(_too_large())(scope, receive, send)
        return await self._app(scope, limited, send)


async def _read(request: Request) -> object:
    """The body as JSON, whatever Content-Type says."""
    raw = await request.body()
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "is missing" if not raw else f"is not JSON ({error})"
        raise Problem(Code.BODY_MALFORMED, f"the body {why}: send a JSON object", side="client") from None


JsonBody = Annotated[object, Depends(_read)]
