"""Accounts, zones and the token check of the Cloudflare v4 API: what every client asks before it does anything."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import JSONResponse

from causeway.api.auth import may_read, may_write
from causeway.api.envelope import answer, page_info
from causeway.api.examples import PAGE_QUERY, ZONE_BODY, ZONE_QUERY
from causeway.api.query import page_of
from causeway.api.reading import as_object, as_text, invalid, refuse_unknown, shown
from causeway.api.timestamps import rfc3339
from causeway.control import zones
from causeway.control.plane import Plane
from causeway.model.hostname import hostname
from causeway.model.problem import Code, Problem
from causeway.model.zone import Account, Token, Zone
from causeway.store import zones as stored

router = APIRouter(prefix="/client/v4")
Json = Annotated[object, Body()]


@router.get("/user/tokens/verify", tags=["Tokens"], summary="Is this token valid?")
def verify_token(token: Annotated[Token, Depends(may_read)]) -> JSONResponse:
    return answer({"id": token.id, "status": "active"})


@router.get(
    "/accounts",
    tags=["Accounts"],
    summary="List accounts",
    dependencies=[Depends(may_read)],
    openapi_extra=PAGE_QUERY,
)
def list_accounts(request: Request) -> JSONResponse:
    plane: Plane = request.app.state.plane
    page = page_of(request)
    with plane.reading() as connection:
        found = stored.all_accounts(connection)
    result = [_account(account) for account in found[page.skip : page.skip + page.per_page]]
    return answer(result, info=page_info(page=page.number, per_page=page.per_page, total=len(found), shown=result))


@router.get("/accounts/{account_id}", tags=["Accounts"], summary="Read an account", dependencies=[Depends(may_read)])
def get_account(request: Request, account_id: str) -> JSONResponse:
    plane: Plane = request.app.state.plane
    with plane.reading() as connection:
        for account in stored.all_accounts(connection):
            if account.id == account_id:
                return answer(_account(account))
    raise Problem(Code.BAD_IDENTIFIER, f"could not route to account {account_id}, perhaps the identifier is wrong")


@router.get("/zones", tags=["Zones"], summary="List zones", dependencies=[Depends(may_read)], openapi_extra=ZONE_QUERY)
def list_zones(request: Request) -> JSONResponse:
    plane: Plane = request.app.state.plane
    page = page_of(request)
    wanted = request.query_params.get("name")
    with plane.reading() as connection:
        accounts = {account.id: account for account in stored.all_accounts(connection)}
        found, total = stored.page(
            connection,
            name=wanted.lower().removesuffix(".") if wanted else None,
            account_id=request.query_params.get("account.id"),
            skip=page.skip,
            most=page.per_page,
        )
    result = [_zone(zone, accounts[zone.account_id]) for zone in found]
    return answer(result, info=page_info(page=page.number, per_page=page.per_page, total=total, shown=result))


@router.post(
    "/zones",
    tags=["Zones"],
    summary="Create a zone",
    dependencies=[Depends(may_write)],
    openapi_extra=ZONE_BODY,
)
def create_zone(request: Request, body: Json) -> JSONResponse:
    plane: Plane = request.app.state.plane
    fields = as_object(body, "")
    refuse_unknown(fields, ("name", "account", "type", "jump_start"), "")
    kind = fields.get("type")
    if kind not in (None, "full"):
        raise Problem(Code.NOT_BUILT, f"zone type {shown(kind)} is not built: only full", pointer="/type")
    name = hostname(as_text(fields.get("name"), "/name"))
    if name is None:
        raise invalid("/name", f"{shown(fields.get('name'))} is not a domain name")
    account = as_object(fields.get("account") or {}, "/account").get("id")
    zone = zones.create(plane, name, as_text(account, "/account/id") if account is not None else None)
    with plane.reading() as connection:
        owner = next(found for found in stored.all_accounts(connection) if found.id == zone.account_id)
    return answer(_zone(zone, owner))


@router.get("/zones/{zone_id}", tags=["Zones"], summary="Read a zone", dependencies=[Depends(may_read)])
def get_zone(request: Request, zone_id: str) -> JSONResponse:
    plane: Plane = request.app.state.plane
    with plane.reading() as connection:
        zone = zones.zone_in(connection, zone_id)
        owner = next(found for found in stored.all_accounts(connection) if found.id == zone.account_id)
    return answer(_zone(zone, owner))


@router.delete(
    "/zones/{zone_id}",
    tags=["Zones"],
    summary="Delete a zone without applications",
    dependencies=[Depends(may_write)],
)
def delete_zone(request: Request, zone_id: str) -> JSONResponse:
    zones.delete(request.app.state.plane, zone_id)
    return answer({"id": zone_id})


def _account(account: Account) -> dict[str, object]:
    return {
        "id": account.id,
        "name": account.name,
        "type": "standard",
        "created_on": rfc3339(account.created_on),
    }


def _zone(zone: Zone, owner: Account) -> dict[str, object]:
    return {
        "id": zone.id,
        "name": zone.name,
        "status": "active",
        "paused": False,
        "type": "full",
        "name_servers": [],
        "account": {"id": owner.id, "name": owner.name},
        "created_on": rfc3339(zone.created_on),
        "modified_on": rfc3339(zone.modified_on),
        "activated_on": rfc3339(zone.created_on),
    }
