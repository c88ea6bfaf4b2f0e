"""Takes changes out to edges of other machines, stage by stage, and back where they do harm.

Each step looks once at what edges have reported and says how the course goes on; who delivers is the fleet.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from causeway.control import course as courses
from causeway.control import gates, rollouts
from causeway.control.plane import Plane
from causeway.control.state import State
from causeway.exchange.nats_control import RemoteEdge
from causeway.exchange.words import Site, Unreadable
from causeway.model.application import Application
from causeway.model.rollout import Course, Form, Rollout

BAKE_S = 8.0  # an origin that does not answer is known after 3 s, and one edge has to have clients meanwhile
# What may pass, where the edge has judged nothing.
_PASSING = {
    "answer_unreadable", "blob_damaged", "blob_missing", "control_failed", "edge_failed", "edge_missing",
    "edge_leaving", "edge_silent", "not_leading", "exchange_unreachable", "snapshot_missing",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of the newest snapshot for an edge.

    `of` is the plane's version that it was made of, `rollout` the number of the open one if that has reached the edge.
    `version` and `content` are the edge's: content is the digest of all that the snapshot says but its version.
    """

    of: int
    course: Course
    site: Site
    version: int
    content: str = ""
    rollout: int | None = None
    is_drained: bool = False
    is_held: bool = False  # it gets something else than what is stored
    trouble: str | None = None  # why the edge does not serve it, as the edge or the exchange say
    code: str = ""

    def is_for(self, state: State, site: Site, rollout: int | None, *, is_drained: bool) -> bool:
        """Whether nothing has changed since that would make another snapshot."""
        made = (self.of, self.site, self.rollout, self.is_drained)
        return self.course is state.course and made == (state.version, site, rollout, is_drained)

    @property
    def refusal(self) -> str | None:
        return self.trouble if self.code not in _PASSING else None


class Stages:
    def __init__(self, plane: Plane, bake_s: float = BAKE_S) -> None:
        self._plane, self._bake_s = plane, bake_s
        self._at: tuple[int, int] | None = None  # rollout and stage
        self._opened_s = 0.0
        self._before: dict[str, gates.Sight] = {}
        self._taken_s: dict[str, float] = {}
        self._seen: set[str] = set()  # edges, since this process began

    def step(
        self, state: State, edges: Sequence[RemoteEdge], standings: Mapping[str, Standing], *, is_settled: bool
    ) -> bool:
        """Whether there is something to look at again soon. `is_settled`: who is there has had time to report."""
        rollout = state.course.rollout
        if rollout is None:
            return self._begin(state, edges, is_settled=is_settled)
        at, now_s, known = (rollout.number, rollout.stage), time.monotonic(), _known(edges)
        self._seen |= known.keys()
        if self._at != at or not is_settled:
            self._at, self._opened_s = at, now_s
            self._remember(state.course, known)
        if not is_settled:
            self._taken_s.clear()  # edges are looked at anew, for the full time
            return True
        watched = [self._watch(name, state.course, known, standings) for name in self._watched(state, rollout, known)]
        if not watched and not rollout.is_everywhere:  # drained, or no edges any more
            if candidates := self._candidates(state, known):
                self._advance(state.course, known, gates.picked((), candidates, rollout.sizes[0]), 1)
            return True
        match gates.judge(watched, self._opened_s, now_s, self._bake_s):
            case gates.Harm(reason):
                rollouts.halt(self._plane, state.course, reason)
            case gates.Passed() if rollout.is_everywhere:
                rollouts.complete(self._plane, state.course)
            case gates.Passed():
                size = rollout.sizes[rollout.stage]
                chosen = gates.picked(rollout.edges, self._candidates(state, known), size)
                self._advance(state.course, known, chosen, rollout.stage + 1)
        return True

    def _begin(self, state: State, edges: Sequence[RemoteEdge], *, is_settled: bool) -> bool:
        wanted = state.wanted
        ids = courses.ready(state.course, wanted)
        if not ids:
            return False
        about = _about(state.course, wanted, ids)
        known = {name: edge for name, edge in _known(edges).items() if _is_concerned(edge, about)}
        live = [name for name, edge in known.items() if self._is_usable(state, edge)]
        if not live:
            if is_settled and all(name in state.drained for name in known):
                rollouts.accept(self._plane, state.course, ids)
            return True
        meant = {id_ for id_ in ids if state.course.holds[id_].is_meant}
        served = len(courses.forms(state.course, stored_forms(state), is_reached=False))
        if reason := gates.mass_deletion(sum(id_ not in wanted for id_ in ids - meant), served):
            rollouts.refuse(self._plane, state.course, ids, reason)
            return True
        sizes = gates.sizes(len(known))  # who is silent may be back before the end
        chosen = gates.picked((), live, sizes[0])
        self._at, self._taken_s = None, {}
        self._before = {name: gates.Sight.of(report, ids) for name in chosen if (report := known[name].report())}
        rollouts.begin(self._plane, state.course, ids, sizes, chosen)
        return True

    def _advance(self, course: Course, known: Mapping[str, RemoteEdge], edges: tuple[str, ...], stage: int) -> None:
        """What edges report now is what is compared with: they get it only after this."""
        assert course.rollout
        is_last = stage >= len(course.rollout.sizes)
        ids = _ids(course)
        for name in (name for name, edge in known.items() if not edge.is_silent) if is_last else edges:
            if name in known and name not in self._before and (report := known[name].report()):
                self._before[name] = gates.Sight.of(report, ids)
        rollouts.advance(self._plane, course, edges, stage)

    def _remember(self, course: Course, known: Mapping[str, RemoteEdge]) -> None:
        """After a start of control, what edges report first is what is compared with."""
        assert course.rollout
        ids = _ids(course)
        for name, edge in known.items():
            if course.rollout.reaches(name) and not edge.is_silent and (report := edge.report()):
                self._before.setdefault(name, gates.Sight.of(report, ids))

    def _watched(self, state: State, rollout: Rollout, known: Mapping[str, RemoteEdge]) -> list[str]:
        """Who is taken out of service, or is no edge any more, says nothing about the change."""
        names = list(self._before) if rollout.is_everywhere else rollout.edges
        stopping = {name for name, edge in known.items() if (report := edge.report()) and report.is_draining}
        revoked = self._seen - known.keys()
        return [name for name in names if name not in state.drained | stopping | revoked]

    def _watch(
        self, name: str, course: Course, known: Mapping[str, RemoteEdge], standings: Mapping[str, Standing]
    ) -> gates.Watched:
        rollout, edge, standing = course.rollout, known.get(name), standings.get(name)
        report = edge.report() if edge else None
        if edge is None or report is None:
            return gates.Watched(name, gates.NOTHING, gates.NOTHING, is_silent=True)
        sight = gates.Sight.of(report, _ids(course))
        has_it = standing is not None and rollout is not None and standing.rollout == rollout.number
        if standing and has_it and not standing.trouble and report.version >= standing.version:
            self._taken_s.setdefault(name, time.monotonic())
        return gates.Watched(
            name,
            self._before.setdefault(name, sight),
            sight,
            self._taken_s.get(name),
            edge.heard_s,
            edge.is_silent,
            standing.refusal if standing and has_it else None,
        )

    def _candidates(self, state: State, known: Mapping[str, RemoteEdge]) -> list[str]:
        about = _about(state.course, state.wanted, _ids(state.course))
        usable = (edge for edge in known.values() if self._is_usable(state, edge) and _is_concerned(edge, about))
        return [edge.name for edge in usable]

    @staticmethod
    def _is_usable(state: State, edge: RemoteEdge) -> bool:
        report = edge.report()
        is_stopping = report is not None and report.is_draining
        return not edge.is_silent and not is_stopping and edge.name not in state.drained


def stored_forms(state: State) -> list[Form]:
    return [Form(piece.application, piece.encoded) for piece in state.pieces if not piece.unserved]


def _ids(course: Course) -> frozenset[str]:
    """Of the applications that the open rollout is about."""
    if course.rollout is None:
        return frozenset()
    number = course.rollout.number
    return frozenset(id_ for id_, hold in course.holds.items() if hold.rollout == number)


def _about(course: Course, wanted: Mapping[str, Application], ids: Iterable[str]) -> list[Application]:
    """As they were and as they are to be."""
    found: list[Application] = []
    for id_ in ids:
        hold = course.holds[id_]
        found += [form.application for form in (hold.before, hold.staged) if form]
        found += [wanted[id_]] if id_ in wanted else []
    return found


def _is_concerned(edge: RemoteEdge, about: Iterable[Application]) -> bool:
    with suppress(Unreadable):
        addresses = edge.told.site.addresses() if edge.told else ()
        return any(application.edge_addresses(addresses) for application in about)
    return False


def _known(edges: Iterable[RemoteEdge]) -> dict[str, RemoteEdge]:
    return {edge.name: edge for edge in edges if edge.told and edge.report()}
