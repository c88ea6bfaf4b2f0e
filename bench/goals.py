"""What causeway must reach, and whether it did. Pure.

CPU per unit of work, memory and loss are gates: they are the steadiest figures. Rates and latency are reported beside
them. Two runs of the same code differ by 8 % at the median: a gate has a tolerance, and what misses is repeated alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import figures
from figures import COPYING, PEERS, Samples
from workloads import Workload

SUBJECT = "causeway"
FAST_PATH, FAST_PATH_V2 = "fast-path", "fast-path-v2"
TOLERANCE = 0.10
GROUPS = {"the best peer": PEERS, "the best copying peer": COPYING}


class State(StrEnum):
    MET = "met"
    CLOSE = "within tolerance"
    MISSED = "MISSED"
    UNKNOWN = "not judged"


@dataclass(frozen=True, slots=True)
class Goal:
    workload: str
    figure: str  # cost, rate, added, value or lost
    against: str | None = None  # a group of GROUPS, a contestant, or None: the limit is absolute
    at_most: float | None = None
    at_least: float | None = None
    subject: str = SUBJECT

    @property
    def is_gate(self) -> bool:
        return self.figure in ("cost", "value", "lost")

    @property
    def sentence(self) -> str:
        said = {
            "cost": "CPU per unit",
            "rate": "rate",
            "added": "added p50",
            "value": "bytes",
            "lost": "datagrams lost",
            "share": "CPUs of its processes",
        }
        limit = f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:g}"
        subject = "" if self.subject == SUBJECT else f"{self.subject}: "
        return f"{subject}{said[self.figure]} {limit}" + (f" x {self.against}" if self.against else "")


@dataclass(frozen=True, slots=True)
class Verdict:
    workload: str
    sentence: str
    is_gate: bool
    state: State
    found: str


def _goals() -> Iterator[Goal]:
    for name in ("tcp-crr", "tcp-crr-rst"):
        yield Goal(name, "cost", "the best peer", at_most=0.85)
        yield Goal(name, "rate", "the best peer", at_least=1.1)
    for name in ("tcp-rr-16", "tcp-rr-256"):
        yield Goal(name, "cost", "the best peer", at_most=0.9)
        yield Goal(name, "rate", "the best peer", at_least=1.05)
    for name in ("bulk-up-4", "bulk-down-4", "bulk-up-1", "bulk-down-1"):
        yield Goal(name, "cost", "haproxy-splice", at_most=1.0)
        yield Goal(name, "cost", "the best copying peer", at_most=0.35)
        yield Goal(name, "rate", "haproxy-splice", at_least=1.0)
        yield Goal(name, "rate", "the best copying peer", at_least=1.5)
        yield Goal(name, "rate", "direct", at_least=0.85)
    for name in ("udp-8x32", "udp-256x2"):
        yield Goal(name, "cost", "the best peer", at_most=0.6)
        yield Goal(name, "rate", "the best peer", at_least=1.5)
        yield Goal(name, "lost", at_most=0)
    for name in ("tcp-lat", "udp-lat"):
        yield Goal(name, "added", "the best peer", at_most=0.75)
    yield Goal("mem-5000", "value", at_most=1700)


def _fast_path_goals() -> Iterator[Goal]:
    bulk = ("bulk-up-4", "bulk-down-4", "bulk-up-1", "bulk-down-1")
    others = ("tcp-crr", "tcp-crr-rst", "tcp-rr-16", "tcp-rr-256", "udp-8x32", "udp-256x2")
    for name in (*others, *bulk):
        yield Goal(name, "rate", "direct", at_least=0.95, subject=FAST_PATH)
        peer, least = ("haproxy-splice", 1.0) if name in bulk else ("the best peer", 1.5)
        yield Goal(name, "rate", peer, at_least=least, subject=FAST_PATH)
        yield Goal(name, "share", at_most=0.01, subject=FAST_PATH)
    for name in ("udp-8x32", "udp-256x2"):
        yield Goal(name, "lost", at_most=0, subject=FAST_PATH)
    for name in ("tcp-rr-16", "tcp-rr-256", *bulk):
        yield Goal(name, "rate", "direct", at_least=0.9, subject=FAST_PATH_V2)  # established connections
    for name in ("tcp-lat", "udp-lat"):
        yield Goal(name, "added", at_most=10, subject=FAST_PATH)


GOALS = (*_goals(), *_fast_path_goals())
MORE_WORKERS_AT_MOST = 1.1  # CPU per unit with several workers, x that with one


def judge(results: dict[Workload, Samples], more_workers: str | None = None) -> list[Verdict]:
    """A verdict for every goal whose workload was run with causeway in it, and was not a matter of several workers."""
    found = []
    for workload, samples in results.items():
        if more_workers is None:
            meant = [goal for goal in GOALS if goal.workload == workload.name and samples.get(goal.subject)]
            found += [_verdict(goal, samples, goal.subject) for goal in meant]
        elif not samples.get(SUBJECT):
            continue
        elif workload.cost_unit:
            goal = Goal(workload.name, "cost", SUBJECT, at_most=MORE_WORKERS_AT_MOST)
            found.append(_verdict(goal, samples, more_workers))
    return found


def better(first: list[Verdict], again: list[Verdict]) -> list[Verdict]:
    """Return what counts: a goal that missed, as its workload was repeated; one that did not, as it was."""
    second = {(verdict.workload, verdict.sentence): verdict for verdict in again}
    return [
        second.get((verdict.workload, verdict.sentence), verdict) if verdict.state is State.MISSED else verdict
        for verdict in first
    ]


def _verdict(goal: Goal, samples: Samples, name: str) -> Verdict:
    state, found = _weigh(goal, samples, name)
    return Verdict(goal.workload, goal.sentence, goal.is_gate, state, found)


def _weigh(goal: Goal, samples: Samples, name: str) -> tuple[State, str]:
    taken = samples.get(name, [])
    if not taken:
        return State.UNKNOWN, f"{name} was not measured"
    if bad := sum(sample.errors + sample.wrong + sample.stuck for sample in taken):
        return State.MISSED, f"{bad} errors, wrong or stuck replies"
    if goal.figure == "lost":
        lost = sum(sample.lost for sample in taken)
        return (State.MISSED, f"{lost:,}") if lost else (State.MET, "0")
    of = {"cost": figures.costs, "added": figures.added, "share": figures.shares}.get(goal.figure, figures.values)
    series = of(samples)
    if goal.against is None:
        value = figures.middle(series, name)
        assert value is not None and goal.at_most is not None
        return _compare(goal, value), f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    if goal.against in GROUPS:
        lowest = goal.at_most is not None
        ratio = figures.against_best(series, name, lowest=lowest, among=GROUPS[goal.against])
    else:
        ratio = figures.ratio(series, name, goal.against)
    return (_compare(goal, ratio.median), str(ratio)) if ratio else (State.UNKNOWN, f"{goal.against}: not measured")


def _compare(goal: Goal, value: float) -> State:
    # Below one is better for `at_most`, above it for `at_least`; the tolerance is a part of the limit.
    if goal.at_most is not None:
        excess = value / goal.at_most
    else:
        assert goal.at_least is not None
        excess = goal.at_least / value
    if excess <= 1:
        return State.MET
    return State.CLOSE if excess <= 1 + TOLERANCE else State.MISSED
