"""The HTTP application: routes, and the envelope around every error."""

from __future__ import annotations

import asyncio
import logging
import time

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from causeway import __version__
from causeway.api import access_rules, argo, firewall, mitigation, own, rollouts, routes, spectrum, tail, zones
from causeway.api.auth import Brake
from causeway.api.body import BodyLimit
from causeway.api.envelope import Json, refusal
from causeway.api.openapi import document
from causeway.api.pages import reference_page, root_page
from causeway.control.plane import Plane
from causeway.control.queries import following, readiness
from causeway.control.tokens import Keyring
from causeway.model.problem import Code, Problem

log = logging.getLogger(__name__)

_DESCRIPTION = (
    "The Cloudflare v4 API for Spectrum applications under /client/v4, causeway's own under /api/v1. "
    "Send Authorization: Bearer TOKEN. Every answer is an envelope with success, errors, messages and result. "
    "A 2xx answer to a change means that it is durable and serving; after an error nothing has changed."
)


def build(plane: Plane, keyring: Keyring, stopping: asyncio.Event) -> FastAPI:
    """The application, with its dependencies wired in; `stopping` ends the streams that would never end."""
    app = FastAPI(
        title="causeway",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        generate_unique_id_function=lambda route: route.name,  # what generated clients call it
        docs_url=None,  # the stock page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.plane, app.state.keyring, app.state.stopping = plane, keyring, stopping
    app.state.brake, app.state.started_s = Brake(), time.monotonic()
    for part in (zones, argo, spectrum, access_rules, firewall, mitigation, own, rollouts, routes, tail):
        app.include_router(part.router)
    _add_pages(app, plane)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    app.add_middleware(BodyLimit)
    app.add_middleware(HeadIsGet)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    return app


class HeadIsGet:
    """Route HEAD as GET, as monitors expect; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def _add_pages(app: FastAPI, plane: Plane) -> None:
    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        return HTMLResponse(root_page(__version__))

    @app.get("/api/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))

    @app.get("/healthz", summary="Is the process alive?", tags=["Health"])
    async def healthz() -> Json:
        return Json({"status": "alive"})

    @app.get("/readyz", summary="Does the edge serve the newest state?", tags=["Health"])
    async def readyz() -> Json:
        reason = readiness(plane)
        return Json({"ready": reason is None, "reason": reason}, status_code=200 if reason is None else 503)

    @app.get("/leadz", summary="Does this control node take changes?", tags=["Health"])
    async def leadz() -> Json:
        reason = following(plane)
        return Json({"leads": reason is None, "reason": reason}, status_code=200 if reason is None else 503)


def _on_problem(_request: Request, error: Exception) -> Json:
    assert isinstance(error, Problem)
    return refusal(error)


def _on_http(request: Request, error: Exception) -> Json:
    """What the router refuses before any handler runs."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405:
        allowed = ", ".join(_methods(request))
        why = f"{request.method} is not a method of {path}, which has {allowed}"
        answer = refusal(Problem(Code.NO_METHOD, why, side="client"))
        answer.headers["Allow"] = allowed
        return answer
    if error.status_code == 404:
        return refusal(Problem(Code.NO_ROUTE, f"no route for {path}: see /api/docs", side="client"))
    return refusal(Problem(Code.INVALID_VALUE, str(error.detail), side="client"), status=error.status_code)


def _methods(request: Request) -> list[str]:
    """Of the path, whichever route has them."""

    def is_routed(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)

    found = [method for method in ("GET", "POST", "PUT", "PATCH", "DELETE") if is_routed(method)]
    return [*found, "HEAD"] if "GET" in found else found


def _on_bug(request: Request, error: Exception) -> Json:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    why = "an error of ours, which is in the log of causeway; traffic goes on. Please report it"
    return refusal(Problem(Code.INTERNAL, why, side="edge"), status=500)
