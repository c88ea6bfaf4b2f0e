"""`/api/v1/firewall`: rules of everybody with their counts, lists, databases, and what they say of an address."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from ipaddress import ip_address

from fastapi import APIRouter, Depends, Request

from causeway.api.access_rule_examples import (
    EXPLAIN_QUERY,
    FILE_BODY,
    LIST_QUERY,
    OWNED_RULE_BODY,
    RULE_PATCH_BODY,
    RULE_QUERY,
)
from causeway.api.access_rules import asked_for
from causeway.api.auth import may_read, may_write
from causeway.api.body import FileBody, JsonBody
from causeway.api.envelope import Json, answer, page_info
from causeway.api.query import choice, is_descending, page_of
from causeway.api.reach import AskingOf, PlaneOf
from causeway.control import access_rules, firewall, mitigation
from causeway.control.plane import Plane
from causeway.model.access_rule import AccessRule, GeoDatabase, Level, List, Owner, Target
from causeway.model.document.access_rule import change_rule, list_name, parse_rule, show_extension, show_rule
from causeway.model.document.attack import show_hold, show_rule_state
from causeway.model.document.reading import as_choice, as_object, invalid, shown
from causeway.model.mitigation import MitigationState
from causeway.model.timestamps import rfc3339
from causeway.store import access_rules as stored
from causeway.store import firewall_lists

router = APIRouter(prefix="/api/v1/firewall", tags=["IP firewall"])
READ, WRITE = [Depends(may_read)], [Depends(may_write)]


@router.get("/rules", summary="List all rules with their counts", dependencies=READ, openapi_extra=RULE_QUERY)
def list_rules(request: Request, plane: PlaneOf) -> Json:
    page = page_of(request)
    order, is_desc = choice(request, "order", ("", *stored.ORDERS), "") or None, is_descending(request)
    with plane.reading() as connection:
        found, total = stored.page(
            connection, None, asked_for(request), order=order, is_descending=is_desc, skip=page.skip, most=page.per_page
        )
    info = page_info(page=page.number, per_page=page.per_page, total=total, count=len(found))
    return answer(_shown(plane, found), info=info)


@router.post("/rules", summary="Make a rule of a zone or account", dependencies=WRITE, openapi_extra=OWNED_RULE_BODY)
def create_rule(plane: PlaneOf, asking: AskingOf, body: JsonBody) -> Json:
    fields = dict(as_object(body, ""))
    scope = as_object(fields.pop("scope", None), "/scope")
    owner = Owner(as_choice(scope.get("type"), "/scope/type", Level), str(scope.get("id")))

    def draft(rule_id: str, now: datetime) -> AccessRule:
        return parse_rule(fields, rule_id=rule_id, owner=owner, now=now)

    return answer(_shown(plane, [access_rules.create(plane, owner, draft, asking)])[0])


@router.get("/rules/{rule_id}", summary="Read a rule", dependencies=READ)
def get_rule(plane: PlaneOf, rule_id: str) -> Json:
    with plane.reading() as connection:
        found = access_rules.find_anywhere(connection, rule_id)
    return answer(_shown(plane, [found])[0])


@router.patch("/rules/{rule_id}", summary="Change a rule", dependencies=WRITE, openapi_extra=RULE_PATCH_BODY)
def patch_rule(plane: PlaneOf, rule_id: str, body: JsonBody) -> Json:
    with plane.reading() as connection:
        owner = access_rules.find_anywhere(connection, rule_id).owner

    def draft(before: AccessRule, now: datetime) -> AccessRule:
        return change_rule(before, body, now=now)

    return answer(_shown(plane, [access_rules.change(plane, owner, rule_id, draft)])[0])


@router.delete("/rules/{rule_id}", summary="Delete a rule", dependencies=WRITE)
def delete_rule(plane: PlaneOf, asking: AskingOf, rule_id: str) -> Json:
    with plane.reading() as connection:
        owner = access_rules.find_anywhere(connection, rule_id).owner
    access_rules.delete(plane, owner, rule_id, asking)
    return answer({"id": rule_id})


@router.get("/lists", summary="List the lists of prefixes", dependencies=READ)
def list_lists(plane: PlaneOf) -> Json:
    with plane.reading() as connection:
        return answer([_list(found) for found in firewall_lists.every(connection)])


@router.get("/lists/{name}", summary="Read what is known of a list", dependencies=READ)
def get_list(plane: PlaneOf, name: str) -> Json:
    with plane.reading() as connection:
        return answer(_list(firewall.list_in(connection, name)))


@router.put(
    "/lists/{name}",
    summary="Make a list, or replace it whole: one prefix in a line",
    dependencies=WRITE,
    openapi_extra={**FILE_BODY, **LIST_QUERY},
)
def put_list(request: Request, plane: PlaneOf, name: str, content: FileBody) -> Json:
    made = firewall.save_list(
        plane,
        list_name(name, "name"),
        content,
        description=request.query_params.get("description"),
        overlaps=choice(request, "overlaps", ("refuse", "join"), "refuse") == "join",
        private=choice(request, "private", ("refuse", "allow"), "refuse") == "allow",
    )
    return answer(_list(made))


@router.delete("/lists/{name}", summary="Delete a list that no rule names", dependencies=WRITE)
def delete_list(plane: PlaneOf, name: str) -> Json:
    return answer({"id": firewall.delete_list(plane, name).id})


@router.get("/databases", summary="Which databases of countries and AS numbers there are", dependencies=READ)
def list_databases(plane: PlaneOf) -> Json:
    with plane.reading() as connection:
        return answer([_database(found) for found in firewall_lists.databases(connection)])


@router.put(
    "/databases/{target}",
    summary="Take a database (asn or country, MMDB or CSV) into use",
    dependencies=WRITE,
    openapi_extra=FILE_BODY,
)
def put_database(request: Request, plane: PlaneOf, target: str, content: FileBody) -> Json:
    name = request.query_params.get("name", "")[:255]
    return answer(_database(firewall.save_database(plane, _geo(target), name, content)))


@router.delete("/databases/{target}", summary="Give up a database that no rule needs", dependencies=WRITE)
def delete_database(plane: PlaneOf, target: str) -> Json:
    firewall.delete_database(plane, _geo(target))
    return answer({"target": target})


@router.get("/explain", summary="Why is an address blocked, or not?", dependencies=READ, openapi_extra=EXPLAIN_QUERY)
def explain(request: Request, plane: PlaneOf) -> Json:
    text = request.query_params.get("address", "")
    try:
        address = str(ip_address(text))
    except ValueError:
        raise invalid("address", f"query parameter address must be an IP address, not {shown(text)}") from None
    asked = request.query_params.get("port", "")
    if asked and not (asked.isascii() and asked.isdigit() and len(asked) < 6 and 0 < int(asked) < 65_536):
        raise invalid("port", f"query parameter port must be an edge port, not {shown(asked)}")
    applications = {piece.application.id: piece.application for piece in plane.pieces.values()}
    told = firewall.explain(plane, address, int(asked) if asked else None)
    automatic = mitigation.state_of(plane.exchange.report())
    with plane.reading() as connection:
        rules = {
            rule_id: show_rule(found)
            for _, _, said in told
            if said
            for rule_id in (said.rule, *said.dry_run)
            if rule_id and (found := stored.find_any(connection, rule_id))
        }
    return answer(
        {
            "address": address,
            "applications": [
                {
                    "id": id_,
                    "dns": applications[id_].dns.name,
                    "protocol": applications[id_].protocol,
                    "port": port,
                    "ip_firewall": applications[id_].ip_firewall,
                    "verdict": said.verdict if said else "none",
                    "by": said.by if said else None,
                    "rule": rules.get(said.rule or "") if said else None,
                    "dry_run": [rules[rule] for rule in said.dry_run if rule in rules] if said else [],
                    "asn": said.asn if said else None,
                    "country": said.country if said else None,
                    "banned_s": said.banned_ms / 1000 if said else 0,
                    "automatic": _automatic(automatic, id_, address),
                    "detected": said.detected if said else None,
                }
                for id_, port, said in told
                if id_ in applications
            ],
        }
    )


def _automatic(state: MitigationState, application: str, address: str) -> dict[str, object]:
    """What automatic mitigation has in force that packets of an address may meet."""
    hold = mitigation.hold_of(state, application)
    return {
        "rules": [
            {**show_rule_state(rule), "by": "address" if is_by_source else "form"}
            for rule, is_by_source in mitigation.rules_about(state, application, address)
        ],
        "hold": show_hold(hold) if hold else None,
    }


def _geo(target: str) -> Target:
    if target not in (Target.ASN, Target.COUNTRY):
        raise invalid("target", f"{shown(target)} is none of asn, country")
    return Target(target)


def _shown(plane: Plane, rules: list[AccessRule]) -> list[dict[str, object]]:
    """As the v4 API has them, with counts."""
    hits: Counter[str] = Counter()
    last_ms: dict[str, int] = {}
    for seen in firewall.rule_hits(plane):
        hits[seen.rule] += seen.hits
        last_ms[seen.rule] = max(seen.last_ms, last_ms.get(seen.rule, 0))

    def moment(rule: AccessRule) -> str | None:
        return rfc3339(datetime.fromtimestamp(last_ms[rule.id] / 1000, UTC)) if rule.id in last_ms else None

    return [
        {
            **show_rule(rule),
            "x_causeway": {**show_extension(rule), "hits": hits[rule.id], "last_hit_on": moment(rule)},
        }
        for rule in rules
    ]


def _list(found: List) -> dict[str, object]:
    return {
        "id": found.id,
        "name": found.name,
        "description": found.description,
        "prefixes": {"ipv4": found.ipv4, "ipv6": found.ipv6},
        "sha256": found.digest,
        "created_on": rfc3339(found.created_on),
        "modified_on": rfc3339(found.modified_on),
    }


def _database(found: GeoDatabase) -> dict[str, object]:
    return {
        "target": found.target.value,
        "name": found.name,
        "prefixes": found.prefixes,
        "keys": found.keys,
        "sha256": found.digest,
        "modified_on": rfc3339(found.modified_on),
    }
