"""`/api/v1/mitigation` and `/api/v1/attacks`: the switch, what is done now, and what there was to be done."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from causeway.api.auth import may_read, may_write
from causeway.api.body import JsonBody
from causeway.api.envelope import Json, answer, page_info
from causeway.api.mitigation_examples import ATTACKS_QUERY, SWITCH_BODY
from causeway.api.query import choice, moment, page_of
from causeway.api.reach import PlaneOf, check_ids
from causeway.control import attacks, mitigation
from causeway.control.plane import Plane
from causeway.model.document.attack import show_attack, show_attack_whole, show_hold, show_rule_state
from causeway.model.document.reading import as_switch
from causeway.model.report import Report
from causeway.store.attacks import AttackFilter, page

router = APIRouter(prefix="/api/v1", tags=["Attacks"])
READ = [Depends(may_read), Depends(check_ids)]
WRITE = [Depends(may_write), Depends(check_ids)]


@router.get("/mitigation", summary="Is automatic mitigation on, and what does it do now?", dependencies=READ)
def get_mitigation(plane: PlaneOf) -> Json:
    return answer(_state(plane))


@router.put(
    "/mitigation",
    summary="Switch automatic mitigation on or off, everywhere at once",
    dependencies=WRITE,
    openapi_extra=SWITCH_BODY,
)
def put_mitigation(plane: PlaneOf, body: JsonBody) -> Json:
    mitigation.switch(plane, is_on=as_switch(body, "enabled"))
    return answer(_state(plane))


@router.get("/attacks", summary="List attacks, the newest first", dependencies=READ, openapi_extra=ATTACKS_QUERY)
def list_attacks(request: Request, plane: PlaneOf) -> Json:
    asked, activity = page_of(request), choice(request, "active", ("", "true", "false"), "")
    wanted = AttackFilter(
        application=request.query_params.get("application") or None,
        is_active=activity == "true" if activity else None,
        since_unix_ms=moment(request, "since"),
    )
    with plane.reading() as connection:
        found, total = page(connection, wanted, skip=asked.skip, most=asked.per_page)
    info = page_info(page=asked.number, per_page=asked.per_page, total=total, count=len(found))
    return answer([show_attack(attack, plane.name_of(attack.application)) for attack in found], info=info)


@router.get("/attacks/{attack_id}", summary="Read an attack with its rules and evidence", dependencies=READ)
def get_attack(plane: PlaneOf, attack_id: str) -> Json:
    with plane.reading() as connection:
        found = attacks.attack_in(connection, attack_id)
    return answer(show_attack_whole(found, plane.name_of(found.application)))


def _state(plane: Plane) -> dict[str, object]:
    plane.exchange.fresh_report()
    return {"enabled": plane.mitigates, "edges": [_edge(name, report) for name, report in plane.reports().items()]}


def _edge(name: str, report: Report) -> dict[str, object]:
    state = mitigation.state_of(report)
    return {
        "name": name,
        "is_enabled": state.is_enabled,
        "is_attached": state.is_attached,
        "missing": state.missing,
        "rules": [show_rule_state(rule) for rule in state.rules],
        "holds": [show_hold(hold) for hold in state.holds],
        "refused": state.refused,
    }
