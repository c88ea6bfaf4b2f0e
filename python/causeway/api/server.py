"""The HTTP application: routes, the envelope around every error, limits on what comes in."""

from __future__ import annotations

import logging
import time

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from causeway import __version__
from causeway.api import own, spectrum, zones
from causeway.api.auth import Brake, TooManyLogins
from causeway.api.envelope import refusal
from causeway.api.pages import reference_page, root_page
from causeway.control.plane import Plane
from causeway.control.queries import readiness
from causeway.control.tokens import Keyring
from causeway.model.problem import Code, Problem

log = logging.getLogger(__name__)

MOST_BODY_BYTES = 1024 * 1024
_DESCRIPTION = (
    "The Cloudflare v4 API for Spectrum applications under /client/v4, causeway's own under /api/v1. "
    "Send Authorization: Bearer TOKEN. Every answer is an envelope with success, errors, messages and result."
)


def build(plane: Plane, keyring: Keyring) -> FastAPI:
    """The application, with its dependencies wired in."""
    app = FastAPI(
        title="causeway",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.plane, app.state.keyring, app.state.brake = plane, keyring, Brake()
    app.state.started_s = time.monotonic()
    app.include_router(zones.router)
    app.include_router(spectrum.router)
    app.include_router(own.router)
    app.add_middleware(BodyLimit)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_malformed)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)

    @app.get("/", include_in_schema=False)
    def root() -> HTMLResponse:
        return HTMLResponse(root_page(__version__))

    @app.get("/api/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))

    @app.get("/healthz", summary="Is the process alive?", tags=["Health"])
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", summary="Does the edge serve the newest state?", tags=["Health"])
    async def readyz() -> JSONResponse:
        reason = readiness(plane)
        return JSONResponse({"ready": reason is None, "reason": reason}, status_code=200 if reason is None else 503)

    return app


def _on_problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, TooManyLogins) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return refusal(error, headers)


def _on_malformed(_request: Request, _error: Exception) -> JSONResponse:
    return refusal(
        Problem(Code.BODY_MALFORMED, "the body is not JSON, or is missing: send a JSON object", side="client")
    )


def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        problem = Problem(
            Code.BAD_ROUTE,
            f"{request.method} is not a method of {request.url.path}: see /api/docs",
            side="client",
        )
        answer = refusal(problem)
        answer.status_code = 405
        return answer
    return refusal(Problem(Code.BAD_ROUTE, f"no route for {request.url.path}: see /api/docs", side="client"))


def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    answer = refusal(
        Problem(Code.INTERNAL, "an error of ours; it is in the log of causeway. Traffic goes on", side="edge")
    )
    answer.status_code = 500
    return answer


class BodyLimit:
    """Refuse request bodies over the limit, announced or not, before they are read whole."""

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
            if taken_bytes > MOST_BODY_BYTES:
                raise Problem(Code.BODY_MALFORMED, f"the body is over {MOST_BODY_BYTES} bytes", side="client")
            return message

        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MOST_BODY_BYTES:
            problem = Problem(Code.BODY_MALFORMED, f"the body is over {MOST_BODY_BYTES} bytes", side="client")
            return await refusal(problem)(scope, receive, send)
        return await self._app(scope, limited, send)
