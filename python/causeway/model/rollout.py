"""A change on its way to edges of other machines: what they serve meanwhile, and how far it has come. Pure.

A *form* is an application as edges get it. A *hold* says that edges get another form than what is stored: the last one
that has passed all stages. A *course* is all of that at one moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from causeway.model.application import Application
from causeway.model.snapshot import encode_application


class RolloutState(StrEnum):
    OPEN = "open"
    HALTED = "halted"  # taken back by itself; what it is about waits for the operator
    DONE = "done"
    PUSHED = "pushed"  # by the operator, to all edges at once
    ROLLED_BACK = "rolled_back"  # by the operator, in what is stored too
    SUPERSEDED = "superseded"  # tried again, or changed once more


@dataclass(frozen=True, slots=True)
class Form:
    """An application and its part of a snapshot, without addresses."""

    application: Application
    encoded: bytes

    @staticmethod
    def of(application: Application) -> Form:
        return Form(application, encode_application(application, ()))

    def is_same(self, other: Form) -> bool:
        """Whether no edge could tell them apart."""

        def told(of: Form) -> tuple[object, ...]:
            return of.encoded, of.application.edge_ips, of.application.extension.paths

        return told(self) == told(other)


@dataclass(frozen=True, slots=True)
class Hold:
    """`before`: what edges get, nothing if they are to have no such application. It waits for its turn; or
    the rollout of that number takes `staged` out, edge by edge; or that one was halted.

    `is_meant`: the operator has said that it is to be tried again.
    """

    application_id: str
    before: Form | None
    staged: Form | None = None
    rollout: int | None = None
    is_halted: bool = False
    is_meant: bool = False

    @property
    def waits(self) -> bool:
        return self.rollout is None


@dataclass(frozen=True, slots=True)
class Changed:
    """One application that a rollout is about; `how`: created, changed or deleted."""

    application_id: str
    name: str
    how: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """`sizes`: how many edges each stage is to reach, the last one stands for all; `stage` counts from 1, and 0 is
    before the first. `edges`: which have been given it, in that order."""

    number: int
    state: RolloutState
    changes: tuple[Changed, ...]
    began_unix_ms: int
    sizes: tuple[int, ...] = (1,)
    stage: int = 0
    edges: tuple[str, ...] = ()
    reason: str | None = None
    ended_unix_ms: int | None = None

    @property
    def is_everywhere(self) -> bool:
        return self.stage >= len(self.sizes)

    def reaches(self, edge: str) -> bool:
        return self.is_everywhere or edge in self.edges


@dataclass(frozen=True, slots=True)
class Course:
    """`holds` by application; `rollout`: the one that is open."""

    holds: Mapping[str, Hold] = field(default_factory=dict)
    rollout: Rollout | None = None

    @property
    def halted(self) -> frozenset[int]:
        return frozenset(hold.rollout for hold in self.holds.values() if hold.is_halted and hold.rollout is not None)
