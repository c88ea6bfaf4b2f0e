"""`/api/v1`: what the original hides. Status, listeners and counters, tokens."""

from __future__ import annotations

import time

import msgspec
from fastapi import APIRouter, Depends, Request

from causeway import __version__
from causeway.api.auth import may_read, may_write
from causeway.api.body import JsonBody
from causeway.api.envelope import Json, answer
from causeway.api.examples import APPLICATIONS_QUERY, EDGE_BODY, TOKEN_BODY
from causeway.api.query import flag, values
from causeway.api.reach import KeyringOf, PlaneOf, check_ids
from causeway.control import edges
from causeway.control.queries import (
    application_states,
    control_state,
    course_state,
    edge_states,
    notices,
    pop_states,
    readiness,
)
from causeway.model.document.reading import as_choice, as_object, as_switch, as_text, refuse_unknown
from causeway.model.problem import Code, Problem
from causeway.model.timestamps import rfc3339
from causeway.model.zone import Scope, Token

router = APIRouter(prefix="/api/v1", tags=["causeway"])
READ = [Depends(may_read), Depends(check_ids)]
WRITE = [Depends(may_write), Depends(check_ids)]


@router.get("/status", summary="What this machine serves", dependencies=READ)
def status(request: Request, plane: PlaneOf) -> Json:
    reason = readiness(plane)
    return answer(
        {
            "version": __version__,
            "uptime_s": round(time.monotonic() - request.app.state.started_s, 3),
            "ready": reason is None,
            "reason": reason,
            "edges": edge_states(plane),
            "control": control_state(plane),
            "rollouts": course_state(plane),
            "applications": len(plane.pieces),
            "notices": notices(plane),
        }
    )


@router.put(
    "/edges/{name}",
    summary="Take an edge of another machine out of service, or back into it",
    dependencies=[Depends(may_write)],
    openapi_extra=EDGE_BODY,
)
def put_edge(request: Request, plane: PlaneOf, name: str, body: JsonBody) -> Json:
    is_drained = as_switch(body, "drained")
    edges.drain(plane, name, is_drained=is_drained, is_forced=flag(request, "force"))
    return answer({"name": name, "drained": is_drained})


@router.get("/pops", summary="List PoPs with their edges: fra-1 and fra-2 are the PoP fra", dependencies=READ)
def list_pops(plane: PlaneOf) -> Json:
    return answer(pop_states(plane))


@router.put(
    "/pops/{name}",
    summary="Take all edges of a PoP out of service, or back into it",
    dependencies=[Depends(may_write)],
    openapi_extra=EDGE_BODY,
)
def put_pop(request: Request, plane: PlaneOf, name: str, body: JsonBody) -> Json:
    is_drained = as_switch(body, "drained")
    names = edges.drain_pop(plane, name, is_drained=is_drained, is_forced=flag(request, "force"))
    return answer({"name": name, "edges": names, "drained": is_drained})


@router.post(
    "/edges/{name}/invitation",
    summary="Invite an edge: what lets one machine in, once, within the hour; shown this once",
    dependencies=[Depends(may_write)],
)
def invite_edge(plane: PlaneOf, name: str) -> Json:
    from causeway.control import enrolment  # what signs takes a moment to import, and most machines are alone

    return answer(msgspec.to_builtins(enrolment.invite(plane, name)))


@router.delete(
    "/edges/{name}",
    summary="Have an edge be none any more: its certificates and its invitation are revoked",
    dependencies=[Depends(may_write)],
)
def revoke_edge(plane: PlaneOf, name: str) -> Json:
    from causeway.control import enrolment

    return answer({"name": name, "is_in_force": enrolment.revoke(plane, name)})


@router.get("/names", summary="What names are answered with, and how often they were asked", dependencies=READ)
def list_names(plane: PlaneOf) -> Json:
    if plane.directory is None:
        raise Problem(Code.NOT_FOUND, "names are not answered here: start with --dns IP[:PORT]")
    return answer(plane.directory.told())


@router.get(
    "/applications",
    summary="Applications with listeners and counters",
    dependencies=READ,
    openapi_extra=APPLICATIONS_QUERY,
)
def list_states(request: Request, plane: PlaneOf) -> Json:
    wanted = values(request, "id")
    return answer([state for state in application_states(plane) if not wanted or state["id"] in wanted])


@router.get("/tokens", summary="List tokens (never their values)", dependencies=READ)
def list_tokens(plane: PlaneOf, keyring: KeyringOf) -> Json:
    return answer([_token(token) for token in keyring.list(plane)])


@router.post(
    "/tokens", summary="Create a token; its value is shown this once", dependencies=WRITE, openapi_extra=TOKEN_BODY
)
def create_token(plane: PlaneOf, keyring: KeyringOf, body: JsonBody) -> Json:
    fields = as_object(body, "")
    refuse_unknown(fields, ("name", "scope"), "")
    name = as_text(fields.get("name"), "/name", longest=100)
    scope = as_choice(fields.get("scope") or "read", "/scope", Scope)
    token, value = keyring.create(plane, name, scope)
    return answer({**_token(token), "value": value})


@router.delete("/tokens/{token_id}", summary="Revoke a token", dependencies=WRITE)
def revoke_token(plane: PlaneOf, keyring: KeyringOf, token_id: str) -> Json:
    keyring.revoke(plane, token_id)
    return answer({"id": token_id})


def _token(token: Token) -> dict[str, object]:
    return {"id": token.id, "name": token.name, "scope": token.scope.value, "created_on": rfc3339(token.created_on)}
