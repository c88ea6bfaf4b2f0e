"""Request bodies: limited while they arrive, then strict JSON."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from causeway.api.envelope import refusal
from causeway.model.problem import Code, Problem

MOST_BYTES = 1024 * 1024
MOST_FILE_BYTES = 64 * 1024 * 1024  # a million prefixes have 20 MB
FILES = ("/api/v1/firewall/lists/", "/api/v1/firewall/databases/")


def _too_large(most_bytes: int) -> Problem:
    return Problem(
        Code.BODY_TOO_LARGE, f"the body is over the limit of {most_bytes} bytes: send less at once", side="client"
    )


class BodyLimit:
    """Refuse bodies over the limit, announced or not, before they are read whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        taken_bytes = 0
        is_file = scope["method"] == "PUT" and scope["path"].startswith(FILES)
        most_bytes = MOST_FILE_BYTES if is_file else MOST_BYTES

        async def limited() -> Message:
            nonlocal taken_bytes
            message = await receive()
            taken_bytes += len(message.get("body", b""))
            if taken_bytes > most_bytes:
                raise _too_large(most_bytes)
            return message

        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > most_bytes:
            return await refusal(_too_large(most_bytes))(scope, receive, send)
        return await self._app(scope, limited, send)


async def _read(request: Request) -> object:
    """The body as JSON, whatever Content-Type says."""
    raw = await request.body()
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "is missing" if not raw else f"is not JSON ({error})"
        raise Problem(Code.BODY_MALFORMED, f"the body {why}: send a JSON object", side="client") from None


async def _raw(request: Request) -> bytes:
    return await request.body()


JsonBody = Annotated[object, Depends(_read)]
FileBody = Annotated[bytes, Depends(_raw)]
