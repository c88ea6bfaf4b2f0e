"""Automatic mitigation on one edge: look, decide, hold, again and again, beside everything else.

If a look or a decision fails, that is logged, and the edge goes on; what is in force stays until the kernel ends it.
Nothing is decided before the first policy is known: an edge whose operator has switched this off stays as it is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import msgspec

from causeway.edge.named import named_thread
from causeway.guard.mitigator import Mitigator
from causeway.model.mitigation import (
    Attack,
    MitigationState,
    Plan,
    PlanReport,
    Sensitivity,
    decode_look,
    decode_plan,
    decode_plan_report,
)

log = logging.getLogger(__name__)

LOOK_S = 0.25  # until an attack is answered it is felt
_SUSPECTED_LOOK_S = 0.12  # from a suspicion to the look that confirms it: as soon as a rate means something
_SLOW_LOOK_S, _LOOK_SHARE = 1.0, 50
_NICE = -10
MOST_ATTACKS = 1_000
_MOST_SAMPLES = 4_000  # of a look
_SILENCE_S = 60.0  # between two complaints
_encode = msgspec.json.Encoder().encode


class GuardEngine(Protocol):
    """What mitigation needs of the compiled engine."""

    def guard_look(self, max_samples: int) -> bytes: ...
    def mitigate(self, plan: bytes) -> bytes: ...
    def mitigation(self) -> bytes: ...


class Policy(msgspec.Struct, frozen=True):
    """What the operator wants; an application that is not named is of medium sensitivity."""

    is_enabled: bool = True
    sensitivities: Mapping[str, Sensitivity] = {}


class _Settings(msgspec.Struct, frozen=True):
    mitigation: bool = True


class _Application(msgspec.Struct, frozen=True):
    id: str
    mitigation: Sensitivity = "medium"


class _Snapshot(msgspec.Struct, frozen=True):
    settings: _Settings = _Settings()
    applications: list[_Application] = []


_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode


def policy_of(snapshot: bytes) -> Policy:
    """What a snapshot says of automatic mitigation.

    Raises:
        msgspec.DecodeError: it is none.
    """
    read = _decode_snapshot(snapshot)
    named: dict[str, Sensitivity] = {one.id: one.mitigation for one in read.applications if one.mitigation != "medium"}
    return Policy(read.settings.mitigation, named)


@dataclass(frozen=True, slots=True)
class Told:
    """For reports; `attacks`: the newest last, those that go on among them."""

    attacks: list[Attack]
    state: MitigationState | None = None


class Mitigation:
    """The thread and what it has found."""

    def __init__(self, engine: GuardEngine) -> None:
        self._engine = engine
        self._mitigator = Mitigator()
        self._policy: Policy | None = None
        self._plan = Plan()
        self._refused: dict[str, str] = {}
        self._attacks: dict[str, Attack] = {}
        self.told = Told([])  # replaced as a whole: who reads it never waits for a decision
        self._deciding = threading.Lock()
        self._is_over = threading.Event()
        self._complained_s = float("-inf")
        self._thread = named_thread("edge-mitigate", self._run)

    def start(self) -> None:
        """Take up what an earlier process has in force, then look."""
        self._thread.start()

    def stop(self) -> None:
        """End looking. What is held goes on until it expires: whoever comes next takes it up."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()

    def set_policy(self, policy: Policy) -> None:
        """Do what the operator wants, before this returns."""
        with self._deciding:
            is_same, self._policy = policy == self._policy, policy
            if not is_same:
                self._try_step()

    def step(self) -> None:
        """Look once, and do what follows."""
        look = decode_look(self._engine.guard_look(_MOST_SAMPLES))
        if self._policy is None:
            return
        policy = self._policy
        plan, attacks = self._mitigator.step(look, policy.sensitivities, policy.is_enabled, _unix_ms())
        for attack in attacks:
            self._note(attack)
        if plan != self._plan:
            self._put(plan)
        self.told = Told(list(self._attacks.values()), self._mitigator.state(self._refused))

    def _put(self, plan: Plan) -> None:
        answer: PlanReport = decode_plan_report(self._engine.mitigate(_encode(plan)))
        self._plan = plan
        for what, why in answer.refused.items():
            if self._refused.get(what) != why:
                log.warning("mitigation: %s is not held: %s", what, why)
        self._refused = answer.refused
        self._mitigator.note_refused(answer.refused)

    def _note(self, attack: Attack) -> None:
        """Keep what is known of an attack; `alarms` says it in the log."""
        self._attacks.pop(attack.id, None)
        self._attacks[attack.id] = attack
        if len(self._attacks) > MOST_ATTACKS:
            del self._attacks[next(iter(self._attacks))]

    def _adopt(self) -> None:
        plan = decode_plan(self._engine.mitigation())
        self._mitigator.adopt(plan, decode_look(self._engine.guard_look(0)).at_ms, _unix_ms())
        self._plan = plan

    def _run(self) -> None:
        # Processors are short in a flood: who ends it does not wait in line. Without the right to, it does.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        with self._deciding:
            self._try(self._adopt)
        pause_s = LOOK_S
        while not self._is_over.wait(pause_s):
            began_s, was_alert = time.monotonic(), self._mitigator.is_alert
            with self._deciding:
                self._try_step()
            if was_alert:
                pause_s = LOOK_S
            elif self._mitigator.is_alert:
                pause_s = _SUSPECTED_LOOK_S
            else:  # with a thousand busy applications a look costs something: in peace it may take its time
                pause_s = max(LOOK_S, min(_SLOW_LOOK_S, _LOOK_SHARE * (time.monotonic() - began_s)))

    def _try_step(self) -> None:
        self._try(self.step)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:
            if time.monotonic() - self._complained_s > _SILENCE_S:
                self._complained_s = time.monotonic()
                log.exception("attacks could not be looked for; the edge goes on serving")


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
