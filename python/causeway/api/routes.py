"""`/api/v1/routes`: which ways flows of smart applications take from each edge, and by which numbers."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends

from causeway.api.auth import may_read
from causeway.api.envelope import Json, answer
from causeway.api.reach import PlaneOf
from causeway.model.problem import Code, Problem
from causeway.model.waits import Waits, bounds_ms

if TYPE_CHECKING:
    from causeway.control.gains import Gains
    from causeway.control.plane import Plane
    from causeway.control.routes import Routing
    from causeway.routing.network import Candidate, Route

router = APIRouter(prefix="/api/v1/routes", tags=["causeway"])
READ = [Depends(may_read)]


@router.get("", summary="List the routes of smart applications, with what each path costs", dependencies=READ)
def list_routes(plane: PlaneOf) -> Json:
    now_s, routing = time.monotonic(), _routing(plane)
    routes = routing.routes if routing else None
    shown = [_shown(plane, route, now_s) for route in routes or ()]
    return answer(sorted(shown, key=lambda one: (str(one["name"]), str(one["edge"]))))


def _routing(plane: Plane) -> Routing | None:
    """Of the one control node that decides; the others do not know what it does."""
    if plane.nodes and not plane.leads:
        why = f"the control node that leads decides which routes there are; {plane.nodes.leader_text}"
        raise Problem(Code.NOT_LEADING, why, side="edge", retry_after_s=2)
    return plane.routing


@router.get(
    "/gains", summary="What smart routing is worth: waits for a first byte, with it and without", dependencies=READ
)
def list_gains(plane: PlaneOf) -> Json:
    now_s, routing = time.monotonic(), _routing(plane)
    found = [_gain(plane, routing.gains, route, now_s) for route in routing.routes or ()] if routing else []
    return answer(sorted(found, key=lambda one: (str(one["name"]), str(one["edge"]))))


def _gain(plane: Plane, gains: Gains, route: Route, now_s: float) -> dict[str, object]:
    path, direct_ms = route.over, route.direct.round_trip_ms
    path_ms = path.round_trip_ms if path else None
    direct, over, gain = gains.of(route.edge, route.application, now_s, direct_ms, path_ms)
    told = {name: _ms(value) for name, value in asdict(gain).items() if name != "reason"}
    return {
        "application": route.application,
        "name": plane.name_of(route.application),
        "edge": route.edge,
        "path": list(path.path) if path else None,
        "direct_rtt_ms": _ms(direct_ms),
        "path_rtt_ms": _ms(path_ms),
        "direct": _waits(direct),
        "over": _waits(over),
        "gain": {**told, "reason": gain.reason},
    }


def _waits(of: Waits) -> dict[str, object]:
    bounds = [(*bounds_ms(bucket), count) for bucket, count in sorted(of.counts.items())]
    return {
        "count": of.count,
        "mean_ms": _ms(of.mean_ms),
        "p50_ms": _ms(of.quantile_ms(0.5)),
        "p95_ms": _ms(of.quantile_ms(0.95)),
        "histogram": [{"from_ms": _ms(least), "to_ms": _ms(most), "count": count} for least, most, count in bounds],
    }


def _shown(plane: Plane, route: Route, now_s: float) -> dict[str, object]:
    first = route.candidates[0]
    return {
        "application": route.application,
        "name": plane.name_of(route.application),
        "edge": route.edge,
        "path": list(first.path),
        "cost_ms": _ms(first.cost_ms),
        "direct_ms": _ms(route.direct_ms),
        "gain_ms": _ms(route.direct_ms - first.cost_ms),
        "since_s": round(now_s - route.since_s, 1),
        "candidates": [_candidate(plane, one) for one in route.candidates],
    }


def _candidate(plane: Plane, of: Candidate) -> dict[str, object]:
    return {
        "path": list(of.path),
        "cost_ms": _ms(of.cost_ms),
        "parts": [{"of": what, "ms": _ms(ms)} for what, ms in of.parts_ms],
    }


def _ms(value: float | None) -> float | None:
    """None: there is no way."""
    return round(value, 3) if value is not None and math.isfinite(value) else None
