"""`/api/v1`: what the original hides. Status, listeners and counters, live events, tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import JSONResponse, StreamingResponse

from causeway import __version__
from causeway.api.auth import may_read, may_write
from causeway.api.envelope import answer
from causeway.api.examples import TAIL_QUERY, TOKEN_BODY
from causeway.api.query import flag
from causeway.api.reading import as_choice, as_object, as_text, refuse_unknown
from causeway.api.timestamps import rfc3339
from causeway.control.plane import Plane
from causeway.control.queries import application_states, readiness
from causeway.control.tokens import Keyring
from causeway.exchange.local import LocalExchange, of_application
from causeway.model.report import Event
from causeway.model.zone import Scope, Token

router = APIRouter(prefix="/api/v1", tags=["causeway"])
Json = Annotated[object, Body()]
_KEEPALIVE_S = 15.0  # an empty line, so that a dead reader is noticed


@router.get("/status", summary="What this machine serves", dependencies=[Depends(may_read)])
def status(request: Request) -> JSONResponse:
    plane: Plane = request.app.state.plane
    report = plane.exchange.report()
    reason = readiness(plane)
    edges = []
    if report:
        edges.append(
            {
                "name": "local",
                "version": report.version,
                "is_draining": report.is_draining,
                "workers": report.workers,
                "refused": msgspec.to_builtins(report.refused),
                "totals": report.totals,
                "open_files": msgspec.to_builtins(report.open_files),
                "events_lost": report.events_lost,
                "rejected_snapshots": report.rejected_snapshots,
            }
        )
    return answer(
        {
            "version": __version__,
            "uptime_s": round(time.monotonic() - request.app.state.started_s, 3),
            "ready": reason is None,
            "reason": reason,
            "edges": edges,
            "applications": len(plane.pieces),
        }
    )


@router.get("/applications", summary="Applications with listeners and counters", dependencies=[Depends(may_read)])
def list_states(request: Request) -> JSONResponse:
    return answer(application_states(request.app.state.plane))


@router.get("/tail", summary="Events as JSON lines", dependencies=[Depends(may_read)], openapi_extra=TAIL_QUERY)
async def tail(request: Request) -> StreamingResponse:
    plane: Plane = request.app.state.plane
    application_id = request.query_params.get("application")
    lines = _follow(plane, application_id) if flag(request, "follow") else _recent(plane, application_id)
    return StreamingResponse(lines, media_type="application/x-ndjson")


async def _recent(plane: Plane, application_id: str | None) -> AsyncIterator[bytes]:
    for event in of_application(plane.exchange.recent, application_id):
        yield _line(plane, event)


async def _follow(plane: Plane, application_id: str | None) -> AsyncIterator[bytes]:
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    exchange: LocalExchange = plane.exchange

    def notify() -> None:
        loop.call_soon_threadsafe(arrived.set)

    with exchange.events(notify) as reader:
        yield b"\n"  # headers and the first byte go out now: the reader knows that it listens
        while True:
            try:
                await asyncio.wait_for(arrived.wait(), _KEEPALIVE_S)
            except TimeoutError:
                yield b"\n"
            arrived.clear()
            events, lost = reader.take()
            if lost:
                yield msgspec.json.encode({"kind": "lost", "events": lost}) + b"\n"
            for event in of_application(events, application_id):
                yield _line(plane, event)


def _line(plane: Plane, event: Event) -> bytes:
    piece = plane.pieces.get(event.application)
    name = (piece.application.extension.name or piece.application.dns.name) if piece else None
    return msgspec.json.encode({**msgspec.to_builtins(event), "application_name": name}) + b"\n"


@router.get("/tokens", summary="List tokens (never their values)", dependencies=[Depends(may_write)])
def list_tokens(request: Request) -> JSONResponse:
    keyring: Keyring = request.app.state.keyring
    return answer([_token(token) for token in keyring.list(request.app.state.plane)])


@router.post(
    "/tokens",
    summary="Create a token; its value is shown this once",
    dependencies=[Depends(may_write)],
    openapi_extra=TOKEN_BODY,
)
def create_token(request: Request, body: Json) -> JSONResponse:
    fields = as_object(body, "")
    refuse_unknown(fields, ("name", "scope"), "")
    name = as_text(fields.get("name"), "/name", longest=100)
    scope = as_choice(fields.get("scope") or "read", "/scope", Scope)
    keyring: Keyring = request.app.state.keyring
    token, value = keyring.create(request.app.state.plane, name, scope)
    return answer({**_token(token), "value": value})


@router.delete("/tokens/{token_id}", summary="Revoke a token", dependencies=[Depends(may_write)])
def revoke_token(request: Request, token_id: str) -> JSONResponse:
    keyring: Keyring = request.app.state.keyring
    keyring.revoke(request.app.state.plane, token_id)
    return answer({"id": token_id})


def _token(token: Token) -> dict[str, object]:
    return {
        "id": token.id,
        "name": token.name,
        "scope": token.scope.value,
        "created_on": rfc3339(token.created_on),
    }
