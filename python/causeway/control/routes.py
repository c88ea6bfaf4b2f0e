"""Smart routing at work: readings of all edges each second, and each edge told which ways its flows take.

What is decided, and by which numbers, is `routing`'s. Routes hold for a time: edges that hear nothing more from control
go back to direct paths, and meanwhile they leave what fails by themselves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from causeway.control.gains import Gains
from causeway.control.plane import Plane
from causeway.control.readings import Readings
from causeway.exchange.bus import ControlSide, EdgeRefused
from causeway.model.edge import LOCAL
from causeway.model.report import Report
from causeway.model.routes import HOLD_S, encode_routes
from causeway.model.smart import is_steered

if TYPE_CHECKING:
    from causeway.routing.network import Network, Paths, Route, Routes

log = logging.getLogger(__name__)

_BUSY_S = 60.0  # an application without new flows for so long has its origins left alone
_AGAIN_S = HOLD_S / 4  # the same routes are said again, so that they hold on
_HEARS_S = 5.0  # after that an edge that does not have what it was told was started anew
_AT_ONCE = 16
_MOST_SAID = 100  # changes in the log, of one slice
SLICE_S = 1.0


@dataclass(slots=True)
class _Told:
    """What an edge was told last."""

    content: bytes
    version: int
    at_s: float


@dataclass(slots=True)
class Routing:
    """All routes, and a thread that keeps them right."""

    plane: Plane
    routes: Routes | None = None
    gains: Gains = field(default_factory=Gains)
    _readings: Readings = field(default_factory=Readings)
    _network: Network | None = None
    _told: dict[str, _Told] = field(default_factory=dict)
    _ways: dict[str, dict[str, Paths]] = field(default_factory=dict)
    _counted: dict[str, int] = field(default_factory=dict)
    _busy_s: dict[str, float] = field(default_factory=dict)
    _telling: dict[str, Future[None]] = field(default_factory=dict)
    _version: int = 0
    _is_over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, name="routing", daemon=True).start()

    def stop(self) -> None:
        self._is_over.set()

    def _run(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="routing") as pool:
            while not self._is_over.wait(SLICE_S):
                try:
                    self._step(pool, time.monotonic())
                except Exception:  # whatever it is, flows go on as they go, and the next slice may go well
                    log.exception("routes could not be computed")

    def _step(self, pool: ThreadPoolExecutor, at_s: float) -> None:
        if not self.plane.leads:
            self._told, self.routes = {}, None
            return
        applications = self._smart()
        if not applications and not self._told:
            self.routes = None
            return
        reports = {name: one for name, one in self.plane.reports().items() if one.overlay and not one.overlay.missing}
        sides = self._sides()
        for name, report in reports.items():
            if name in sides and report.overlay:
                self._readings.take(name, report.overlay.steering, at_s)
                self.gains.take(name, report.overlay.steering.gains, at_s)
        self._readings.forget(set(reports), set(applications))
        self.gains.forget(set(reports))
        self._note_traffic(applications, reports, at_s)
        self._decide(applications, sorted(reports), at_s)
        self._tell(pool, reports, sides, at_s)

    def _smart(self) -> dict[str, str]:
        """Names, by id."""
        pieces, zones = tuple(self.plane.pieces.values()), self.plane.smart_zones
        found = (piece.application for piece in pieces if is_steered(piece.application, zones) and not piece.unserved)
        return {one.id: one.extension.name or one.dns.name for one in found}

    def _sides(self) -> dict[str, ControlSide]:
        """Those that can be told now."""
        fleet = self.plane.fleet
        remote = {edge.name: edge for edge in fleet.exchange.edges() if not edge.is_silent} if fleet else {}
        return {LOCAL: self.plane.exchange, **remote}

    def _note_traffic(self, applications: Mapping[str, str], reports: Mapping[str, Report], at_s: float) -> None:
        counted = dict.fromkeys(applications, 0)
        for report in reports.values():
            for one in report.applications:
                if (id_ := str(one["id"])) in counted:
                    counted[id_] += int(one["connections_total"])
        for id_, count in counted.items():
            if count != self._counted.get(id_, 0):
                self._busy_s[id_] = at_s
        self._counted = counted
        self._busy_s = {id_: since_s for id_, since_s in self._busy_s.items() if id_ in applications}

    def _decide(self, applications: Mapping[str, str], names: list[str], at_s: float) -> None:
        from causeway.routing.network import EdgeSeen, Network  # with numpy: only where it is used

        if self._network is None:
            self._network = Network()
        takes_flows = {peer.name for peer in self.plane.peers if not peer.is_drained}
        seen = [
            EdgeSeen(
                name,
                self._readings.legs_ms(name),
                {id_: ms for id_ in applications if (ms := self._readings.reach_ms(name, id_, at_s)) is not None},
                relays=name in takes_flows,
            )
            for name in names
        ]
        self.routes = routes = self._network.step(seen, sorted(applications), at_s)
        for route in islice(routes.changed(), _MOST_SAID):
            _say(route, applications[route.application])
        before = self._ways
        self._ways = {
            name: routes.ways(name) if routes.is_new(name) or name not in before else before[name] for name in names
        }

    def _tell(
        self, pool: ThreadPoolExecutor, reports: Mapping[str, Report], sides: Mapping[str, ControlSide], at_s: float
    ) -> None:
        reach = sorted(id_ for id_, since_s in self._busy_s.items() if at_s - since_s <= _BUSY_S)
        is_used = bool(self._counted)
        self._telling = {name: future for name, future in self._telling.items() if not future.done()}
        for name in reports.keys() & sides.keys():
            if name in self._telling:
                continue
            legs = sorted(other for other in reports if other != name) if is_used else []
            ways = self._ways.get(name, {})
            content = encode_routes(0, ways, legs, reach)
            before, overlay = self._told.get(name), reports[name].overlay
            has_it = before is not None and overlay is not None and overlay.steering.version == before.version
            if before and before.content == content:
                age_s = at_s - before.at_s
                if age_s < _AGAIN_S and (has_it or age_s < _HEARS_S):
                    continue
            self._version = max(self._version + 1, int(time.time()))  # larger than those of a process before
            self._told[name] = _Told(content, self._version, at_s)
            told = encode_routes(self._version, ways, legs, reach)
            self._telling[name] = pool.submit(_steer, name, sides[name], told)
        self._told = {name: told for name, told in self._told.items() if name in reports}
        if not is_used:  # each has heard that there is nothing more to measure
            self._told = {name: told for name, told in self._told.items() if name in self._telling}


def _steer(name: str, side: ControlSide, routes: bytes) -> None:
    try:
        side.steer(routes)
    except EdgeRefused as error:
        log.warning("edge %s does not take routes (%s): %s; its flows go direct", name, error.code, error)
    except Exception:
        log.exception("edge %s could not be told routes", name)


def _say(route: Route, name: str) -> None:
    first = route.candidates[0]
    way = f"over {', '.join(first.path)}" if first.path else "direct"
    log.info(
        "route of %s from edge %s: %s, %.1f ms (direct %.1f ms)", name, route.edge, way, first.cost_ms, route.direct_ms
    )
