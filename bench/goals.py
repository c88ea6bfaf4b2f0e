"""What causeway must reach, and whether it did. Pure.

Ratios of one run are good to about ±20 % on a machine that client, proxy and origin share, so "level" is
taken with a tolerance and what fails is repeated alone: only what fails twice fails.
"""

from dataclasses import dataclass

from report import PEERS, Samples, against_best, middle, ratio
from workloads import Workload

SUBJECT = "causeway"
LEVEL = 0.9  # "at least level": 1.0 less a tolerance of 10 %


@dataclass(frozen=True, slots=True)
class Goal:
    workload: str
    sentence: str
    at_least: float | None = None  # ratio
    against: str | None = None  # the best peer, unless named
    at_most: float | None = None  # absolute


GOALS = (
    Goal("tcp-rr-16", "round trips level with the better peer (1.0, tolerance 0.1)", at_least=LEVEL),
    Goal("bulk-up-4", "bulk up level with the better peer (1.0, tolerance 0.1)", at_least=LEVEL),
    Goal("bulk-down-4", "bulk down level with the better peer (1.0, tolerance 0.1)", at_least=LEVEL),
    Goal("tcp-crr", "connections/s at 0.8 of the better peer", at_least=0.8),
    Goal("udp-8x32", "UDP ahead of nginx, few flows", at_least=1.0, against="nginx"),
    Goal("udp-256x2", "UDP ahead of nginx, many flows", at_least=1.0, against="nginx"),
    Goal("mem-5000", "an idle connection in 8 KiB", at_most=8192),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    workload: str
    sentence: str
    is_met: bool
    found: str


def judge(results: dict[Workload, Samples]) -> list[Verdict]:
    """A verdict for every goal whose workload was run with causeway in it."""
    return [
        Verdict(goal.workload, goal.sentence, *_weigh(goal, workload, samples))
        for goal in GOALS
        for workload, samples in results.items()
        if workload.name == goal.workload and samples.get(SUBJECT)
    ]


def _weigh(goal: Goal, workload: Workload, samples: Samples) -> tuple[bool, str]:
    taken = samples[SUBJECT]
    if bad := sum(sample.errors + sample.wrong + sample.stuck for sample in taken):
        return False, f"{bad} errors, wrong or stuck replies"
    if goal.at_most is not None:
        value = middle(taken)
        return value <= goal.at_most, f"{value:,.0f} of at most {goal.at_most:,.0f}"
    named = goal.against
    found = ratio(workload, samples, SUBJECT, named) if named else against_best(workload, samples, SUBJECT)
    if found is None:
        return False, f"no peer to compare with: {named or ', '.join(sorted(PEERS))}"
    return found.median >= (goal.at_least or 0), f"{found}, wanted {goal.at_least:.2f}"
