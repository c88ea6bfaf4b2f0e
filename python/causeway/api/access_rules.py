"""IP Access Rules of the Cloudflare v4 API, for a zone and for an account."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from causeway.api.access_rule_examples import RULE_BODY, RULE_PATCH_BODY, RULE_QUERY
from causeway.api.auth import may_read, may_write
from causeway.api.body import JsonBody
from causeway.api.envelope import Json, answer, page_info
from causeway.api.query import choice, is_descending, page_of
from causeway.api.reach import AskingOf, PlaneOf, check_ids
from causeway.control import access_rules
from causeway.model.access_rule import AccessRule, Level, Mode, Owner, Target
from causeway.model.document.access_rule import canonical, change_rule, parse_rule, show_rule
from causeway.model.problem import Problem
from causeway.store import access_rules as stored

router = APIRouter(prefix="/client/v4", tags=["IP Access Rules"])
READ = [Depends(may_read), Depends(check_ids)]
WRITE = [Depends(may_write), Depends(check_ids)]
_OF_ZONE, _OF_ACCOUNT = (f"/{of}/firewall/access_rules/rules" for of in ("zones/{zone_id}", "accounts/{account_id}"))
_TARGETS, _MODES = tuple(target.value for target in Target), tuple(mode.value for mode in Mode)


async def _zone(zone_id: str) -> Owner:
    return Owner(Level.ZONE, zone_id)


async def _account(account_id: str) -> Owner:
    return Owner(Level.ACCOUNT, account_id)


ZoneOf = Annotated[Owner, Depends(_zone)]
AccountOf = Annotated[Owner, Depends(_account)]


@router.get(_OF_ZONE, summary="List a zone's rules", dependencies=READ, openapi_extra=RULE_QUERY)
def list_zone_rules(request: Request, plane: PlaneOf, owner: ZoneOf) -> Json:
    return _list(request, plane, owner)


@router.get(_OF_ACCOUNT, summary="List an account's rules", dependencies=READ, openapi_extra=RULE_QUERY)
def list_account_rules(request: Request, plane: PlaneOf, owner: AccountOf) -> Json:
    return _list(request, plane, owner)


@router.post(_OF_ZONE, summary="Make a rule for a zone", dependencies=WRITE, openapi_extra=RULE_BODY)
def create_zone_rule(plane: PlaneOf, asking: AskingOf, owner: ZoneOf, body: JsonBody) -> Json:
    return _create(plane, asking, owner, body)


@router.post(_OF_ACCOUNT, summary="Make a rule for all zones", dependencies=WRITE, openapi_extra=RULE_BODY)
def create_account_rule(plane: PlaneOf, asking: AskingOf, owner: AccountOf, body: JsonBody) -> Json:
    return _create(plane, asking, owner, body)


@router.get(_OF_ZONE + "/{rule_id}", summary="Read a rule of a zone", dependencies=READ)
def get_zone_rule(plane: PlaneOf, owner: ZoneOf, rule_id: str) -> Json:
    return _get(plane, owner, rule_id)


@router.get(_OF_ACCOUNT + "/{rule_id}", summary="Read a rule of an account", dependencies=READ)
def get_account_rule(plane: PlaneOf, owner: AccountOf, rule_id: str) -> Json:
    return _get(plane, owner, rule_id)


@router.patch(
    _OF_ZONE + "/{rule_id}", summary="Change a rule of a zone", dependencies=WRITE, openapi_extra=RULE_PATCH_BODY
)
def patch_zone_rule(plane: PlaneOf, owner: ZoneOf, rule_id: str, body: JsonBody) -> Json:
    return _patch(plane, owner, rule_id, body)


@router.patch(
    _OF_ACCOUNT + "/{rule_id}", summary="Change a rule of an account", dependencies=WRITE, openapi_extra=RULE_PATCH_BODY
)
def patch_account_rule(plane: PlaneOf, owner: AccountOf, rule_id: str, body: JsonBody) -> Json:
    return _patch(plane, owner, rule_id, body)


@router.delete(_OF_ZONE + "/{rule_id}", summary="Delete a rule of a zone", dependencies=WRITE)
def delete_zone_rule(plane: PlaneOf, asking: AskingOf, owner: ZoneOf, rule_id: str) -> Json:
    access_rules.delete(plane, owner, rule_id, asking)
    return answer({"id": rule_id})


@router.delete(_OF_ACCOUNT + "/{rule_id}", summary="Delete a rule of an account", dependencies=WRITE)
def delete_account_rule(plane: PlaneOf, asking: AskingOf, owner: AccountOf, rule_id: str) -> Json:
    access_rules.delete(plane, owner, rule_id, asking)
    return answer({"id": rule_id})


def asked_for(request: Request) -> stored.RuleFilter:
    """Which rules the query is about."""
    target = choice(request, "configuration.target", ("", *_TARGETS), "")
    value = request.query_params.get("configuration.value") or None
    return stored.RuleFilter(
        target=target or None,
        value=_spelled(target, value) if value else None,
        mode=choice(request, "mode", ("", *_MODES), "") or None,
        notes=request.query_params.get("notes") or None,
        is_any=choice(request, "match", ("any", "all"), "all") == "any",
    )


def _list(request: Request, plane: PlaneOf, owner: Owner) -> Json:
    page, wanted = page_of(request), asked_for(request)
    order, is_desc = choice(request, "order", ("", *stored.ORDERS), "") or None, is_descending(request)
    with plane.reading() as connection:
        access_rules.check_owner(connection, owner)
        found, total = stored.page(
            connection, owner, wanted, order=order, is_descending=is_desc, skip=page.skip, most=page.per_page
        )
    info = page_info(page=page.number, per_page=page.per_page, total=total, count=len(found))
    return answer([show_rule(rule) for rule in found], info=info)


def _create(plane: PlaneOf, asking: AskingOf, owner: Owner, body: object) -> Json:
    def draft(rule_id: str, now: datetime) -> AccessRule:
        return parse_rule(body, rule_id=rule_id, owner=owner, now=now)

    return answer(show_rule(access_rules.create(plane, owner, draft, asking)))


def _get(plane: PlaneOf, owner: Owner, rule_id: str) -> Json:
    with plane.reading() as connection:
        return answer(show_rule(access_rules.rule_in(connection, owner, rule_id)))


def _patch(plane: PlaneOf, owner: Owner, rule_id: str, body: object) -> Json:
    def draft(before: AccessRule, now: datetime) -> AccessRule:
        return change_rule(before, body, now=now)

    return answer(show_rule(access_rules.change(plane, owner, rule_id, draft)))


def _spelled(target: str, value: str) -> str:
    """As rules have it, whatever spelling was asked for; what is no value of any target is found nowhere."""
    for kind in [Target(target)] if target else Target:
        try:
            return canonical(kind, value)
        except Problem:
            continue
    return value
