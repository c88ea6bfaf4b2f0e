"""`/zones/{zone_id}/spectrum/apps`: the resource of the Cloudflare v4 API, with every documented field."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Depends, Request

from causeway.api.auth import may_read, may_write
from causeway.api.body import JsonBody
from causeway.api.envelope import Json, answer, page_info
from causeway.api.examples import APPLICATION_BODY, DRY_RUN, IDEMPOTENCY, LIST_QUERY, NOW, PATCH_BODY
from causeway.api.query import choice, flag, is_descending, page_of
from causeway.api.reach import AskingOf, PlaneOf, check_ids
from causeway.control import applications
from causeway.control.plane import Plane
from causeway.control.queries import notice_of
from causeway.control.zones import zone_in
from causeway.model.application import Application
from causeway.model.document.application import parse_application
from causeway.model.document.showing import merge, show_application
from causeway.store import applications as stored

router = APIRouter(prefix="/client/v4/zones/{zone_id}/spectrum/apps", tags=["Spectrum applications"])
READ = [Depends(may_read), Depends(check_ids)]
WRITE = [Depends(may_write), Depends(check_ids)]


@router.get("", summary="List applications", dependencies=READ, openapi_extra=LIST_QUERY)
def list_applications(request: Request, plane: PlaneOf, zone_id: str) -> Json:
    page = page_of(request)
    order, is_desc = choice(request, "order", stored.ORDERS, "created_on"), is_descending(request)
    with plane.reading() as connection:
        zone_in(connection, zone_id)
        found = stored.page(connection, zone_id, order=order, is_descending=is_desc, skip=page.skip, most=page.per_page)
        total = stored.count(connection, zone_id) if page.is_asked_for else 0
    info = page_info(page=page.number, per_page=page.per_page, total=total, count=len(found))
    return answer([show_application(one, plane.smart_zones) for one in found], info=info if page.is_asked_for else None)


@router.post(
    "",
    summary="Create an application",
    dependencies=WRITE,
    openapi_extra={**APPLICATION_BODY, "parameters": [DRY_RUN, IDEMPOTENCY]},
)
def create_application(request: Request, plane: PlaneOf, asking: AskingOf, zone_id: str, body: JsonBody) -> Json:
    def draft(application_id: str, now: datetime) -> Application:
        return parse_application(body, application_id=application_id, zone_id=zone_id, created_on=now, now=now)

    if flag(request, "dry_run"):
        return answer(show_application(applications.rehearse_create(plane, zone_id, draft), plane.smart_zones))
    return _answer(plane, applications.create(plane, zone_id, draft, asking))


@router.get("/{app_id}", summary="Read an application", dependencies=READ)
def get_application(plane: PlaneOf, zone_id: str, app_id: str) -> Json:
    with plane.reading() as connection:
        return answer(show_application(applications.application_in(connection, zone_id, app_id), plane.smart_zones))


@router.put(
    "/{app_id}",
    summary="Replace an application",
    dependencies=WRITE,
    openapi_extra={**APPLICATION_BODY, "parameters": [DRY_RUN, NOW]},
)
def put_application(request: Request, plane: PlaneOf, zone_id: str, app_id: str, body: JsonBody) -> Json:
    return _change(request, plane, zone_id, app_id, body, is_patch=False)


@router.patch(
    "/{app_id}",
    summary="Change fields of an application",
    dependencies=WRITE,
    openapi_extra={**PATCH_BODY, "parameters": [DRY_RUN, NOW]},
)
def patch_application(request: Request, plane: PlaneOf, zone_id: str, app_id: str, body: JsonBody) -> Json:
    return _change(request, plane, zone_id, app_id, body, is_patch=True)


@router.delete("/{app_id}", summary="Delete an application", dependencies=WRITE, openapi_extra={"parameters": [NOW]})
def delete_application(request: Request, plane: PlaneOf, asking: AskingOf, zone_id: str, app_id: str) -> Json:
    applications.delete(plane, zone_id, app_id, asking, is_now=flag(request, "now"))
    return answer({"id": app_id})


def _change(request: Request, plane: PlaneOf, zone_id: str, app_id: str, body: object, *, is_patch: bool) -> Json:
    def draft(before: Application, now: datetime) -> Application:
        whole = merge(before, body) if is_patch else body
        return parse_application(whole, application_id=app_id, zone_id=zone_id, created_on=before.created_on, now=now)

    is_now = flag(request, "now")
    if flag(request, "dry_run"):
        return _answer(plane, applications.rehearse_change(plane, zone_id, app_id, draft))
    return _answer(plane, applications.change(plane, zone_id, app_id, draft, is_now=is_now))


def _answer(plane: Plane, application: Application) -> Json:
    notice = notice_of(plane, application)
    messages = [{"code": 19000, "message": notice}] if notice else []
    return answer(show_application(application, plane.smart_zones), messages=messages)
