"""Accounts, zones and the token check of the Cloudflare v4 API: what every client asks before it does anything."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from causeway.api.auth import may_read, may_write
from causeway.api.body import JsonBody
from causeway.api.envelope import Json, answer, page_info
from causeway.api.examples import PAGE_QUERY, ZONE_BODY, ZONE_QUERY
from causeway.api.query import choice, is_descending, page_of, values
from causeway.api.reach import AskingOf, PlaneOf, check_ids
from causeway.control import zones
from causeway.model.document.reading import as_object, as_text, invalid, refuse_unknown, shown
from causeway.model.hostname import hostname
from causeway.model.problem import Code, Problem
from causeway.model.timestamps import rfc3339
from causeway.model.zone import Account, Token, Zone
from causeway.store import zones as stored

router = APIRouter(prefix="/client/v4")
READ = [Depends(may_read), Depends(check_ids)]
WRITE = [Depends(may_write), Depends(check_ids)]
_STATUSES = ("initializing", "pending", "active", "moved")


@router.get("/user/tokens/verify", tags=["Tokens"], summary="Is this token valid?")
def verify_token(token: Annotated[Token, Depends(may_read)]) -> Json:
    return answer(
        {"id": token.id, "status": "active"},
        messages=[{"code": 10000, "message": "This API Token is valid and active", "type": None}],
    )


@router.get("/accounts", tags=["Accounts"], summary="List accounts", dependencies=READ, openapi_extra=PAGE_QUERY)
def list_accounts(request: Request, plane: PlaneOf) -> Json:
    page, names = page_of(request), values(request, "name")
    with plane.reading() as connection:
        found = [one for one in stored.all_accounts(connection) if not names or one.name in names]
    if is_descending(request):
        found.reverse()
    result = [_account(account) for account in found[page.skip : page.skip + page.per_page]]
    return answer(result, info=page_info(page=page.number, per_page=page.per_page, total=len(found), count=len(result)))


@router.get("/accounts/{account_id}", tags=["Accounts"], summary="Read an account", dependencies=READ)
def get_account(plane: PlaneOf, account_id: str) -> Json:
    with plane.reading() as connection:
        for account in stored.all_accounts(connection):
            if account.id == account_id:
                return answer(_account(account))
    raise Problem(Code.BAD_IDENTIFIER, f"there is no account {account_id}: list accounts to see their ids")


@router.get("/zones", tags=["Zones"], summary="List zones", dependencies=READ, openapi_extra=ZONE_QUERY)
def list_zones(request: Request, plane: PlaneOf) -> Json:
    page, order, is_desc = page_of(request), choice(request, "order", stored.ORDERS, "name"), is_descending(request)
    names = values(request, "name")
    if operator := next((name for name in names if ":" in name), None):
        raise Problem(
            Code.NOT_BUILT, f"query parameter name {shown(operator)}: filter operators are not built", pointer="name"
        )
    wanted = stored.ZoneFilter(
        names=tuple(name.lower().removesuffix(".") for name in names),
        account_ids=values(request, "account.id"),
        account_names=values(request, "account.name"),
        is_any=choice(request, "match", ("any", "all"), "all") == "any",
    )
    is_empty = choice(request, "status", _STATUSES, "active") != "active"  # zones here are active from the start
    with plane.reading() as connection:
        accounts = {account.id: account for account in stored.all_accounts(connection)}
        found, total = stored.page(
            connection, wanted, order=order, is_descending=is_desc, skip=page.skip, most=page.per_page
        )
    result = [] if is_empty else [_zone(zone, accounts[zone.account_id]) for zone in found]
    total = 0 if is_empty else total
    return answer(result, info=page_info(page=page.number, per_page=page.per_page, total=total, count=len(result)))


@router.post("/zones", tags=["Zones"], summary="Create a zone", dependencies=WRITE, openapi_extra=ZONE_BODY)
def create_zone(plane: PlaneOf, asking: AskingOf, body: JsonBody) -> Json:
    fields = as_object(body, "")
    refuse_unknown(fields, ("name", "account", "type", "jump_start"), "")
    if fields.get("type") not in (None, "full"):
        raise Problem(Code.NOT_BUILT, f"zone type {shown(fields['type'])} is not built: only full", pointer="/type")
    name = hostname(as_text(fields.get("name"), "/name"))
    if name is None or "." not in name:
        raise invalid("/name", f"{shown(fields['name'])} is not a domain name such as example.net")
    owner = as_object(fields.get("account") or {}, "/account")
    refuse_unknown(owner, ("id",), "/account")
    account_id = as_text(owner["id"], "/account/id") if owner.get("id") is not None else None
    zone = zones.create(plane, name, account_id, is_again=asking.is_again)
    return answer(_with_owner(plane, zone))


@router.get("/zones/{zone_id}", tags=["Zones"], summary="Read a zone", dependencies=READ)
def get_zone(plane: PlaneOf, zone_id: str) -> Json:
    with plane.reading() as connection:
        zone = zones.zone_in(connection, zone_id)
    return answer(_with_owner(plane, zone))


@router.delete("/zones/{zone_id}", tags=["Zones"], summary="Delete a zone without applications", dependencies=WRITE)
def delete_zone(plane: PlaneOf, zone_id: str) -> Json:
    zones.delete(plane, zone_id)
    return answer({"id": zone_id})


def _with_owner(plane: PlaneOf, zone: Zone) -> dict[str, object]:
    with plane.reading() as connection:
        owner = next(found for found in stored.all_accounts(connection) if found.id == zone.account_id)
    return _zone(zone, owner)


def _account(account: Account) -> dict[str, object]:
    return {"id": account.id, "name": account.name, "type": "standard", "created_on": rfc3339(account.created_on)}


def _zone(zone: Zone, owner: Account) -> dict[str, object]:
    return {
        "id": zone.id,
        "name": zone.name,
        "status": "active",
        "paused": False,
        "type": "full",
        "development_mode": 0,
        "name_servers": [],
        "original_name_servers": None,
        "original_registrar": None,
        "original_dnshost": None,
        "account": {"id": owner.id, "name": owner.name},
        "owner": {"id": owner.id, "name": owner.name, "type": "organization"},
        "created_on": rfc3339(zone.created_on),
        "modified_on": rfc3339(zone.modified_on),
        "activated_on": rfc3339(zone.created_on),
    }
