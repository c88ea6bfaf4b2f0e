"""`/zones/{zone_id}/spectrum/apps`: the resource of the Cloudflare v4 API, with every documented field."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import JSONResponse

from causeway.api.application_body import merge, parse_application, show_application
from causeway.api.auth import may_read, may_write
from causeway.api.envelope import answer, page_info
from causeway.api.examples import APPLICATION_BODY, DRY_RUN, LIST_QUERY
from causeway.api.query import choice, flag, page_of
from causeway.control import applications
from causeway.control.plane import Plane
from causeway.control.zones import zone_in
from causeway.model.application import Application
from causeway.store import applications as stored

router = APIRouter(prefix="/client/v4/zones/{zone_id}/spectrum/apps", tags=["Spectrum applications"])
Json = Annotated[object, Body()]


@router.get("", summary="List applications", dependencies=[Depends(may_read)], openapi_extra=LIST_QUERY)
def list_applications(request: Request, zone_id: str) -> JSONResponse:
    plane: Plane = request.app.state.plane
    page = page_of(request)
    order = choice(request, "order", stored.ORDERS, "dns")
    direction = choice(request, "direction", ("asc", "desc"), "asc")
    with plane.reading() as connection:
        zone_in(connection, zone_id)
        found = stored.page(
            connection,
            zone_id,
            order=order,
            is_descending=direction == "desc",
            skip=page.skip,
            most=page.per_page,
        )
        total = stored.count(connection, zone_id)
    result = [show_application(application) for application in found]
    info = page_info(page=page.number, per_page=page.per_page, total=total, shown=result)
    return answer(result, info=info if page.is_asked_for else None)


@router.post(
    "",
    summary="Create an application",
    dependencies=[Depends(may_write)],
    openapi_extra=APPLICATION_BODY | DRY_RUN,
)
def create_application(request: Request, zone_id: str, body: Json) -> JSONResponse:
    plane: Plane = request.app.state.plane

    def draft(application_id: str, created_on: datetime, now: datetime) -> Application:
        return parse_application(body, application_id=application_id, zone_id=zone_id, created_on=created_on, now=now)

    if flag(request, "dry_run"):
        return answer(show_application(applications.rehearse_create(plane, zone_id, draft)))
    application = applications.create(
        plane,
        zone_id,
        draft,
        repeat_key=repeat_key(request, zone_id),
        is_repeat=request.headers.get("x-stainless-retry-count", "0") not in ("", "0"),
    )
    return answer(show_application(application))


@router.get("/{app_id}", summary="Read an application", dependencies=[Depends(may_read)])
def get_application(request: Request, zone_id: str, app_id: str) -> JSONResponse:
    plane: Plane = request.app.state.plane
    with plane.reading() as connection:
        return answer(show_application(applications.application_in(connection, zone_id, app_id)))


@router.put(
    "/{app_id}",
    summary="Replace an application",
    dependencies=[Depends(may_write)],
    openapi_extra=APPLICATION_BODY | DRY_RUN,
)
def put_application(request: Request, zone_id: str, app_id: str, body: Json) -> JSONResponse:
    return _change(request, zone_id, app_id, body, is_patch=False)


@router.patch(
    "/{app_id}",
    summary="Change fields of an application",
    dependencies=[Depends(may_write)],
    openapi_extra=APPLICATION_BODY | DRY_RUN,
)
def patch_application(request: Request, zone_id: str, app_id: str, body: Json) -> JSONResponse:
    return _change(request, zone_id, app_id, body, is_patch=True)


@router.delete("/{app_id}", summary="Delete an application", dependencies=[Depends(may_write)])
def delete_application(request: Request, zone_id: str, app_id: str) -> JSONResponse:
    applications.delete(request.app.state.plane, zone_id, app_id)
    return answer({"id": app_id})


def _change(request: Request, zone_id: str, app_id: str, body: object, *, is_patch: bool) -> JSONResponse:
    plane: Plane = request.app.state.plane

    def draft(before: Application, now: datetime) -> Application:
        whole = merge(before, body) if is_patch else body
        return parse_application(whole, application_id=app_id, zone_id=zone_id, created_on=before.created_on, now=now)

    act = applications.rehearse_change if flag(request, "dry_run") else applications.change
    return answer(show_application(act(plane, zone_id, app_id, draft)))


def repeat_key(request: Request, zone_id: str) -> str | None:
    """A fixed-length form of the caller's Idempotency-Key, apart for each zone."""
    key = request.headers.get("idempotency-key", "")
    return hashlib.sha256(f"{zone_id}\0{key}".encode()).hexdigest() if key else None
