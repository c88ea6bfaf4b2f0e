"""Announce while healthy: what the edge is able to serve goes to BIRD, by a thread of its own.

It never speaks BGP, and nothing waits for it but an edge that stops. What BIRD does not do is told in reports and
tried again; the edge serves on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from causeway.edge import bird
from causeway.edge.announcing import Announcing, Health
from causeway.edge.bird import BirdTrouble
from causeway.edge.bird_socket import ask, write_include
from causeway.edge.named import named_thread
from causeway.edge.passing import NoPassing, Passing, Stage
from causeway.model.anycast import Announcements, Policy, community_text
from causeway.model.application import Address, Network
from causeway.model.report import Announced, AnycastState, Report
from causeway.settings import LEAVE_SLACK_S

log = logging.getLogger(__name__)

_TURN_S = 0.5
_CHECK_S = 5.0  # so often BIRD is asked whether it has our routes
_AGAIN_S, _TROUBLE_S = 1.0, 2.0  # after news, and after trouble
_LEARNING_S = 2.0  # for handshakes to end, and for clients of UDP to be heard
_LEAST_PASSING_S = 3.0  # until a report says what there is after ports were closed, or opened


@dataclass(frozen=True, slots=True)
class Where:
    """How BIRD is reached, and the interface that routes lead to."""

    socket: Path
    include: Path
    device: str


class Anycast:
    """What is announced for this edge."""

    def __init__(self, policy: Policy, where: Where, light: Callable[[bool], object], *, has_peers: bool) -> None:
        """`light`: tell the supervisor whether the interface that routes lead to may be up.

        `has_peers`: this is one edge of several, and what takes it out of service waits for its clients to leave.
        """
        self._policy, self._where, self._light, self.has_peers = policy, where, light, has_peers
        self._announcing = Announcing(policy)
        self._versions = {prefix.version for prefix in policy.prefixes}
        self._lock = threading.Lock()
        self._health: Health | None = None
        self._has_connections = True
        self._said: Announcements | None = None  # what the file says
        self._is_asked = False  # whether BIRD has taken that
        self._trouble: str | None = None
        self._due_s = 0.0
        self._woken = threading.Event()
        self._is_over = False
        self._hurries = False
        self._passing = Passing(policy.prefixes, policy.pass_to) if policy.pass_to else None
        self._passes_until_s: float | None = None  # connections that exist have not all ended before
        self._holds_until_s: float | None = None
        self._thread = named_thread("edge-anycast", self._run)

    def start(self) -> None:
        if self._passing:
            self._pass(self._passing.end)  # what a process has left that was killed
        self._thread.start()

    def see(self, report: Report) -> Report:
        """Learn from a report how the edge is; return it with what is announced."""
        health = Health.of(report)
        if health != self._health:
            self._health = health
            self._woken.set()
        self._has_connections = report.totals.get("connections_open", 0) > 0
        return msgspec.structs.replace(report, anycast=self._told())

    def pass_on(self) -> bool:
        """Have new connections go on to another PoP from now on; whether they all do."""
        if self._passing is None or self._hurries or self._is_over:
            return False
        if not self._passing.is_on:
            if not self._pass(partial(self._passing.to, Stage.LEARNING)):
                return False
            log.info("anycast: new connections are passed on to %s", ", ".join(map(str, self._policy.pass_to)))
            self._holds_until_s = None
            with self._lock:
                self._announcing.hold(self._passing.prefixes)
            time.sleep(_LEARNING_S)  # ports close next, and with them what is half open
            self._pass(partial(self._passing.to, Stage.PASSING))
        return set(self._passing.prefixes) == set(self._policy.prefixes)

    def leave(self) -> None:
        """Send clients elsewhere, and return when they are."""
        if self._is_over or self._hurries or not self._thread.is_alive():
            return self.stop()
        prefixes = [prefix for prefix in self._policy.prefixes if self._begin_to_leave(prefix)]
        if prefixes:
            log.info("anycast: clients are sent elsewhere, for %g s as a last resort", self._policy.leave_s)
        until_s = time.monotonic() + self._policy.leave_s + LEAVE_SLACK_S
        while time.monotonic() < until_s and not self._hurries and not all(map(self._has_left, prefixes)):
            time.sleep(0.05)
        return self.stop()

    def hurry(self) -> None:
        """Wait for nobody any more."""
        self._hurries = True

    def make_way(self, served: frozenset[Address]) -> bool:
        """Whether the edge may come down to these addresses: clients of all others are elsewhere, or are passed on.

        Until they are, this sends them there, for as long as it is asked.
        """
        if not served and self._begin_to_pass():
            return True
        may = True
        for prefix in self._policy.prefixes:
            if not Health(served).serves(prefix) and (self._begin_to_leave(prefix) or not self._has_left(prefix)):
                may = False
        return may

    def stay(self, served: frozenset[Address]) -> None:
        """Have clients of these addresses come again: they are served."""
        if served and self._passes_until_s is not None:
            self._stay_after_all()
        with self._lock:
            for prefix in self._policy.prefixes:
                if Health(served).serves(prefix):
                    self._announcing.stay(prefix)
        self._woken.set()

    def _begin_to_pass(self) -> bool:
        if self._passes_until_s is None:
            is_announced = any(self._announcing.level(prefix) for prefix in self._policy.prefixes)
            if not is_announced or not self.pass_on():
                return False
            self._passes_until_s = time.monotonic() + _LEAST_PASSING_S
        return True

    def _stay_after_all(self) -> None:
        self._passes_until_s = None
        if self._passing and self._passing.is_on:
            self._pass(partial(self._passing.to, Stage.ENDING))
        self._holds_until_s = time.monotonic() + _LEAST_PASSING_S

    def _pass(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except NoPassing as error:
            log.error("anycast: connections are not passed on to another PoP: %s", error)
            return False
        return True

    def stop(self) -> None:
        """Say nothing more; what was said stays said."""
        self._is_over = True
        self._woken.set()
        if self._passing and self._passing.is_on:
            self._pass(self._passing.end)

    def _begin_to_leave(self, prefix: Network) -> bool:
        """Whether anybody may still come there."""
        with self._lock:
            was_announced = self._announcing.level(prefix) > 0
            if was_announced:
                self._announcing.leave(prefix, time.monotonic())
        self._woken.set()
        return was_announced

    def _has_left(self, prefix: Network) -> bool:
        with self._lock:
            is_quiet = not self._announcing.is_leaving(prefix) or self._announcing.has_left(prefix, time.monotonic())
            return is_quiet and prefix not in (self._said or {})

    def _told(self) -> AnycastState:
        with self._lock:
            said, trouble = self._said or {}, self._trouble
        announced = []
        for prefix in self._policy.prefixes:
            terms = said.get(prefix)
            state = "withdrawn" if terms is None else "leaving" if terms == self._policy.leaving else "announced"
            communities = [community_text(community) for community in terms.communities] if terms else []
            announced.append(Announced(str(prefix), state, communities, terms.med if terms else None))
        return AnycastState(announced, trouble)

    # ---- in its own thread ----

    def _run(self) -> None:
        while not self._is_over:
            self._woken.wait(_TURN_S)
            self._woken.clear()
            health = self._health
            if health is None or self._is_over:
                continue
            try:
                self._turn(health, time.monotonic())
            except Exception:  # whatever it is, the next turn may go well
                log.exception("anycast: it could not be decided what to announce; what was announced stays")

    def _turn(self, health: Health, now_s: float) -> None:
        if self._passes_until_s is not None and now_s > self._passes_until_s and not self._has_connections:
            self._leave_when_empty()
        if self._holds_until_s is not None and now_s > self._holds_until_s:
            self._holds_until_s = None
            with self._lock:
                self._announcing.hold(())
        with self._lock:
            wanted = self._announcing.step(health, now_s)
        if wanted != self._said:
            self._due_s, self._is_asked = 0.0, False
        if now_s < self._due_s:
            return
        if not wanted:
            self._light(False)  # first: it holds even where BIRD does not read its configuration
        try:
            is_news = self._say(wanted)
        except BirdTrouble as error:
            self._note(str(error))
            self._due_s = now_s + _TROUBLE_S
        else:
            self._note(None)
            self._due_s = now_s + (_AGAIN_S if is_news else _CHECK_S)
        if wanted and self._said is not None:
            self._light(True)  # on each turn: a supervisor may have been started in between

    def _leave_when_empty(self) -> None:
        """Once no connection is left that began here."""
        for prefix in self._policy.prefixes:
            self._begin_to_leave(prefix)
        if self._passing and self._passing.is_on and all(map(self._has_left, self._policy.prefixes)):
            self._pass(self._passing.end)

    def _say(self, wanted: Announcements) -> bool:
        """Whether BIRD had to be told. Raises BirdTrouble."""
        is_news = write_include(self._where.include, bird.render(wanted, self._versions, self._where.device))
        if is_news or self._said is None:
            log.info("anycast: %s", _said_text(wanted, self._policy))
        with self._lock:
            self._said = wanted
        commands = ["configure"] if is_news or not self._is_asked else []
        names = [bird.protocol_name(version) for version in sorted(self._versions)]
        _, replies = ask(self._where.socket, [*commands, *(f"show route protocol {name} count" for name in names)])
        if commands:
            bird.check_configured(replies.pop(0))
            self._is_asked = True
        found = sum(bird.route_count(reply, name) for reply, name in zip(replies, names, strict=True))
        if not commands and found < len(wanted):
            device = self._where.device
            raise BirdTrouble(
                f"BIRD has {found} of {len(wanted)} routes in force: they lead to {device}, which must be there and up"
            )
        return bool(commands)

    def _note(self, trouble: str | None) -> None:
        with self._lock:
            before, self._trouble = self._trouble, trouble
        if trouble and trouble != before:
            log.error("anycast: %s. The edge serves on; it is tried again", trouble)
        elif before and not trouble:
            log.info("anycast: BIRD does what it is asked again")


def _said_text(announcements: Announcements, policy: Policy) -> str:
    if not announcements:
        return "nothing is announced"
    said = [
        f"{prefix}{' as a last resort' if terms == policy.leaving else ''}" for prefix, terms in announcements.items()
    ]
    return f"announces {', '.join(said)}"
