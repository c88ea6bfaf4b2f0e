"""`/api/v1/rollouts`: changes on their way to edges of other machines, and what the operator says about them."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Depends

from causeway.api.auth import may_read, may_write
from causeway.api.envelope import Json, answer
from causeway.api.reach import PlaneOf
from causeway.control import rollouts
from causeway.model.problem import Code, Problem
from causeway.model.rollout import Rollout

router = APIRouter(prefix="/api/v1/rollouts", tags=["causeway"])
READ, WRITE = [Depends(may_read)], [Depends(may_write)]
_MOST_DIGITS = 9


@router.get("", summary="List rollouts to edges of other machines, the newest first", dependencies=READ)
def list_rollouts(plane: PlaneOf) -> Json:
    return answer([_shown(rollout) for rollout in rollouts.recent(plane)])


@router.post("/push", summary="Bring all that is under way to all edges at once", dependencies=WRITE)
def push_rollouts(plane: PlaneOf) -> Json:
    return answer({"applications": rollouts.push(plane)})


@router.get("/{number}", summary="Read a rollout", dependencies=READ)
def get_rollout(plane: PlaneOf, number: str) -> Json:
    return answer(_shown(rollouts.rollout_of(plane, _number(number))))


@router.post(
    "/{number}/push", summary="Bring a rollout to all edges at once, also one that was halted", dependencies=WRITE
)
def push_rollout(plane: PlaneOf, number: str) -> Json:
    return answer({"applications": rollouts.push(plane, _number(number))})


@router.post("/{number}/resume", summary="Try a halted rollout again, from its first stage", dependencies=WRITE)
def resume_rollout(plane: PlaneOf, number: str) -> Json:
    rollouts.resume(plane, _number(number))
    return answer(_shown(rollouts.rollout_of(plane, _number(number))))


@router.post(
    "/{number}/rollback", summary="Make its applications what they were, here and on every edge", dependencies=WRITE
)
def roll_back(plane: PlaneOf, number: str) -> Json:
    return answer({"applications": rollouts.rollback(plane, _number(number))})


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise Problem(Code.BAD_IDENTIFIER, f"{text[:64]!r} is not the number of a rollout", side="client")
    return int(text)


def _shown(rollout: Rollout) -> dict[str, object]:
    return {**asdict(rollout), "stages": len(rollout.sizes), "changes": [asdict(change) for change in rollout.changes]}
