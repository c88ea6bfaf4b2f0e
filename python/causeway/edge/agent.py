"""Check, apply, observe, report: the loop around the engine of this node.

The engine's threads do the work and never wait for this one; if the loop fails, traffic goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from causeway.edge.alarms import Alarms
from causeway.edge.episodes import Episodes
from causeway.edge.mitigation import GuardEngine, Mitigation, policy_of
from causeway.edge.named import named_thread
from causeway.exchange.bus import LEAVING, EdgeRefused, EdgeSide
from causeway.model.mitigation import Look, Plan, PlanReport, decode_look, decode_plan, decode_plan_report
from causeway.model.report import (
    ApplyReport,
    BlobReport,
    Explanation,
    Report,
    RuleHits,
    decode_apply_report,
    decode_report,
)
from causeway.model.snapshot import content_digest, edge_addresses
from causeway.native import NativeError

if TYPE_CHECKING:
    from causeway.edge.anycast import Anycast

log = logging.getLogger(__name__)

_EVENTS_PER_LOOK = 8_192
_KEPT_UNREAD = 200  # of each worker at each look, for whoever comes next
_FULL_BYTES = _EVENTS_PER_LOOK * 250  # no event is shorter: there is more where this came from
_BUSY_BYTES = _FULL_BYTES // 4
_LOOK_S, _LIVE_LOOK_S = 1.0, 0.1  # nobody watches; somebody does, or much happens
_SKIPPING_LOOK_S = 0.25  # nobody watches, but the rings must not run over:
_MANY_SKIPPED = 8_192  # at one look
_RETRY_S = 2.0  # a port that was taken may be free by then


class Engine(GuardEngine, Protocol):
    """What the agent needs of the compiled engine."""

    def apply(self, snapshot: bytes) -> bytes: ...
    def observe(self, max_events: int) -> bytes: ...
    def skip_events(self, keep: int) -> int: ...
    def drain(self, deadline_ms: int) -> int: ...
    def hand_over(self, link: int, within_ms: int) -> int: ...
    def pulse(self, beat: int) -> None: ...
    def put_blob(self, kind: str, content: bytes, *, overlaps: bool, private: bool) -> bytes: ...
    def has_blob(self, digest: str) -> bool: ...
    def rule_hits(self) -> bytes: ...
    def explain(self, application: str, client: str, port: int) -> bytes: ...
    def identify(self, identity: bytes) -> None: ...
    def steer(self, plan: bytes) -> None: ...


class EngineFailed(Exception):
    """The engine could not start; the message says why."""

    status = 1  # of the process, as of a StartError


class Agent:
    """One edge on the exchange."""

    def __init__(
        self,
        engine: Engine,
        exchange: EdgeSide,
        mitigation: Mitigation | None = None,
        anycast: Anycast | None = None,
    ) -> None:
        self._engine = engine
        self._exchange = exchange
        self._mitigation = mitigation
        self._anycast = anycast
        self._snapshot: bytes | None = None
        self._content: tuple[int, str] | None = None  # the version of that snapshot, and the digest of what it says
        self._applying = threading.Lock()
        self._observing = threading.Lock()  # reports are published in the order in which they were taken
        self._alarms = Alarms()
        self._episodes = Episodes()
        self._woken = threading.Event()
        self._is_stopping = self._is_over = self._is_skipping = False
        self._thread = named_thread("edge-agent", self._run)

    def start(self) -> None:
        """Come onto the exchange, report once, then keep reporting."""
        report = self.observe()
        for reason in report.rejected_snapshots:
            log.error("a snapshot on disk was not taken: %s", reason)
        if report.guard.not_believed:
            log.warning("the plan of automatic mitigation on disk was not taken up: %s", report.guard.not_believed)
        if report.bans_not_believed:
            log.warning("bans on disk were not taken up: %s", report.bans_not_believed)
        if self._mitigation:
            self._mitigation.start()
        if self._anycast:
            self._anycast.start()
        self._exchange.attach(self)
        self._thread.start()

    def apply(self, snapshot: bytes) -> ApplyReport:
        """Have the engine do what the snapshot says.

        Raises:
            EdgeRefused: nothing was changed.
        """
        anycast = self._anycast if self._anycast and self._anycast.has_peers else None
        if anycast and not anycast.make_way(edge_addresses(snapshot)):
            raise EdgeRefused(LEAVING, "clients are sent elsewhere first")
        with self._applying:
            report = self._apply(snapshot)
            self._snapshot = snapshot
            self._content = report.version, content_digest(snapshot)
            if anycast:
                anycast.stay(edge_addresses(snapshot))
            if self._mitigation:
                self._mitigation.set_policy(policy_of(snapshot))
        if report.not_kept:
            log.error("snapshot %d serves, but a restart would not find it: %s", report.version, report.not_kept)
        return report

    def observe(self) -> Report:
        """Take what the engine has seen and publish it."""
        with self._observing:
            if not self._exchange.has_readers:
                self._is_skipping = self._engine.skip_events(_KEPT_UNREAD) > _MANY_SKIPPED
            applied = self._content
            report = decode_report(self._engine.observe(_EVENTS_PER_LOOK))
            attacks = self._episodes.attacks(report.detections, int(time.time() * 1000))
            if self._mitigation:
                told = self._mitigation.told
                report = msgspec.structs.replace(report, mitigation=told.state)
                attacks = [*told.attacks, *attacks]
            found = (one[1] for one in (applied, self._content) if one and one[0] == report.version)
            report = msgspec.structs.replace(report, attacks=attacks, content=next(found, None))
            if self._anycast:
                report = self._anycast.see(report)
            self._exchange.publish(report)
            for line in self._alarms.lines(report):
                log.log(line.level, "%s", line.text)
        return report

    def put_blob(self, kind: str, content: bytes, *, overlaps: bool, private: bool) -> BlobReport:
        """Have the engine take a list or database in.

        Raises:
            EdgeRefused: what is wrong with it; nothing was changed.
        """
        try:
            found = self._engine.put_blob(kind, content, overlaps=overlaps, private=private)
        except NativeError as error:
            raise EdgeRefused(error.code, error.message) from error
        return msgspec.json.decode(found, type=BlobReport)

    def has_blob(self, digest: str) -> bool:
        return self._engine.has_blob(digest)

    def identify(self, identity: bytes) -> None:
        """Be this to other edges.

        Raises:
            EdgeRefused: it cannot be used; the edge goes on as what it was.
        """
        try:
            self._engine.identify(identity)
        except NativeError as error:
            raise EdgeRefused(error.code, error.message) from error

    def steer(self, routes: bytes) -> None:
        """Have flows go these ways, for as long as is said with them.

        Raises:
            EdgeRefused: they go as they went.
        """
        try:
            self._engine.steer(routes)
        except NativeError as error:
            raise EdgeRefused(error.code, error.message) from error

    def rule_hits(self) -> list[RuleHits]:
        return msgspec.json.decode(self._engine.rule_hits(), type=list[RuleHits])

    def explain(self, application: str, client: str, port: int) -> Explanation | None:
        return msgspec.json.decode(self._engine.explain(application, client, port), type=Explanation | None)

    def guard_look(self, max_samples: int) -> Look:
        """Look at what the guard has seen, with at most so many of the packets sampled since the last look."""
        return decode_look(self._engine.guard_look(max_samples))

    def mitigate(self, plan: Plan) -> PlanReport:
        """Make `plan` all that automatic mitigation asks for; an empty one ends everything automatic.

        Raises:
            EdgeRefused: it is no plan, or the edge has stopped; the one before stays in force.
        """
        try:
            return decode_plan_report(self._engine.mitigate(msgspec.json.encode(plan)))
        except NativeError as error:
            raise EdgeRefused(error.code, error.message) from error

    def mitigation(self) -> Plan:
        """Tell the plan in force, perhaps one that an earlier process has left."""
        return decode_plan(self._engine.mitigation())

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def wake(self) -> None:
        self._woken.set()

    def hand_over(self, link: int, within_s: float) -> int:
        """Give all but TCP connections to the process at the other end; answer how many UDP sessions went.

        Raises:
            EdgeRefused: nothing was given.
        """
        with self._applying:
            try:
                moved = self._engine.hand_over(link, int(within_s * 1000))
            except NativeError as error:
                raise EdgeRefused(error.code, error.message) from error
            self._is_stopping = True
        if self._mitigation:
            self._mitigation.stop()  # the other process decides from now on
        if self._anycast:
            self._anycast.stop()
        return moved

    def open_flows(self) -> int:
        """How many connections and sessions there are now."""
        return self.observe().totals.get("connections_open", 0)

    def stop(self, drain_s: float) -> int:
        """Close the ports, let flows of the engine end for `drain_s`, answer how many had to be cut.

        Before that, clients are sent elsewhere, where anycast does it. What the kernel carries goes on.

        A second call with a shorter time, while the first one waits, cuts what is left.
        """
        anycast, is_first, self._is_stopping = self._anycast, not self._is_stopping, True
        if anycast and not is_first:
            anycast.hurry()
        passes = bool(anycast and anycast.pass_on())
        if anycast and not passes:
            anycast.leave()
        if self._mitigation:
            self._mitigation.stop()
        cut = self._engine.drain(int(drain_s * 1000))
        if anycast and passes:
            anycast.leave()
        self._is_over = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()
        self._say_left(self.observe())
        return cut

    def _say_left(self, report: Report) -> None:
        count = len({at.application for at in report.carriers if at.carrier == "kernel"})
        if count and report.flow_path.is_on:
            log.info(
                "the kernel goes on carrying %d application(s) and %d flow(s): start again to take them up, or end "
                "them with causeway down --flush",
                count,
                report.flow_path.flows,
            )

    def _apply(self, snapshot: bytes) -> ApplyReport:
        try:
            return decode_apply_report(self._engine.apply(snapshot))
        except NativeError as error:
            raise EdgeRefused(error.code, error.message) from error

    def _run(self) -> None:
        pause_s, tried_s = _LOOK_S, time.monotonic()
        while not self._is_over:
            if self._woken.wait(pause_s):
                self._woken.clear()
            try:
                report = self.observe()
                pause_s = self._pause_s(len(bytes(report.events)))
                if report.refused and not self._is_stopping and time.monotonic() - tried_s > _RETRY_S:
                    tried_s = time.monotonic()
                    self._retry()
            except Exception:
                pause_s = _LOOK_S
                log.exception("the edge could not be observed; it goes on serving")

    def _pause_s(self, events_bytes: int) -> float:
        if events_bytes > _FULL_BYTES:
            return 0.0
        if self._is_skipping and not self._exchange.has_readers:
            return _SKIPPING_LOOK_S
        return _LIVE_LOOK_S if self._exchange.has_readers or events_bytes > _BUSY_BYTES else _LOOK_S

    def _retry(self) -> None:
        """Ask again for ports that could not be had."""
        with self._applying:
            if self._snapshot is None:
                return
            try:
                report = self._apply(self._snapshot)
            except EdgeRefused as error:
                log.error("applying the running snapshot again was refused (%s): %s", error.code, error)
                return
        for listener in report.listeners:
            if listener.state == "running":
                first, last = listener.ports.first, listener.ports.last
                log.info("%s %d-%d on %s could be had now", listener.protocol, first, last, listener.address)
