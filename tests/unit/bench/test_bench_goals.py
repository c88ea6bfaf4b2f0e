"""When is a goal met, near enough, missed, or not to be judged?"""

from collections.abc import Sequence

import figures
import goals
import pytest
from goals import State
from sample import Sample
from workloads import WORKLOADS, Workload

NAMED = {workload.name: workload for workload in WORKLOADS}


def _samples(values: Sequence[float], costs: Sequence[float] = (), lost: int = 0, errors: int = 0) -> list[Sample]:
    costs = costs or [1.0] * len(values)
    return [
        Sample(value, cost, None, errors, 0, lost, 0, None, 0.9, 0.5, 0.5, 0.0)
        for value, cost in zip(values, costs, strict=True)
    ]


def _states(workload: Workload, samples: figures.Samples) -> dict[str, State]:
    return {verdict.sentence: verdict.state for verdict in goals.judge({workload: samples})}


@pytest.mark.parametrize(
    ("costs", "state"),
    [
        ([0.80, 0.80, 0.80], State.MET),
        ([0.90, 0.90, 0.90], State.CLOSE),  # 0.85 with a tolerance of a tenth
        ([0.95, 0.95, 0.95], State.MISSED),
        ([0.80, 0.80, 9.00], State.MET),  # the median of the rounds' ratios, so one bad round decides nothing
    ],
)
def test_cpu_per_unit_is_held_to_the_peer_that_needs_least(costs: list[float], state: State) -> None:
    peers = {"haproxy": _samples([9, 9, 9], [2, 2, 2]), "nginx": _samples([1, 1, 1], [1, 1, 1])}
    found = _states(NAMED["tcp-crr"], {**peers, "causeway": _samples([10, 10, 10], costs)})
    assert found["CPU per unit at most 0.85 x the best peer"] is state
    assert found["rate at least 1.1 x the best peer"] is State.MET  # of haproxy, which is the fastest


def test_splicing_and_copying_peers_are_bars_of_their_own_in_bulk() -> None:
    samples = {
        "direct": _samples([20]),
        "haproxy-splice": _samples([12], [0.25]),
        "nginx": _samples([8], [0.8]),
        "causeway": _samples([13], [0.26]),
    }
    assert _states(NAMED["bulk-up-4"], samples) == {
        "CPU per unit at most 1 x haproxy-splice": State.CLOSE,
        "CPU per unit at most 0.35 x the best copying peer": State.MET,
        "rate at least 1 x haproxy-splice": State.MET,
        "rate at least 1.5 x the best copying peer": State.MET,
        "rate at least 0.85 x direct": State.MISSED,
    }


def test_one_lost_datagram_misses_the_goal_of_none() -> None:
    samples = {"nginx": _samples([1], [1]), "causeway": _samples([2], [0.5], lost=1)}
    assert _states(NAMED["udp-8x32"], samples)["datagrams lost at most 0"] is State.MISSED


def test_an_error_misses_whatever_the_figures_say() -> None:
    samples = {"nginx": _samples([1], [1]), "causeway": _samples([9], [0.1], errors=1)}
    assert set(_states(NAMED["tcp-crr"], samples).values()) == {State.MISSED}


def test_a_goal_whose_peer_is_missing_is_not_judged_rather_than_met() -> None:
    assert set(_states(NAMED["tcp-rr-16"], {"causeway": _samples([9], [0.1])}).values()) == {State.UNKNOWN}


def test_latency_is_compared_by_what_each_adds_to_no_proxy() -> None:
    samples = {"direct": _samples([100]), "nginx": _samples([140]), "causeway": _samples([128])}
    assert _states(NAMED["tcp-lat"], samples) == {"added p50 at most 0.75 x the best peer": State.MET}  # 28 of 40


def test_several_workers_are_held_to_the_cost_of_one() -> None:
    results = {NAMED["tcp-crr"]: {"causeway": _samples([1], [1]), "causeway-2w": _samples([2], [1.3])}}
    [verdict] = goals.judge(results, "causeway-2w")
    assert (verdict.state, verdict.sentence) == (State.MISSED, "CPU per unit at most 1.1 x causeway")


def test_only_what_misses_twice_is_missed() -> None:
    def verdict(sentence: str, state: State) -> goals.Verdict:
        return goals.Verdict("tcp-crr", sentence, True, state, "")

    first = [verdict("a", State.MISSED), verdict("b", State.MET), verdict("c", State.MISSED)]
    again = [verdict("a", State.MET), verdict("b", State.MISSED), verdict("c", State.MISSED)]
    assert [found.state for found in goals.better(first, again)] == [State.MET, State.MET, State.MISSED]


def test_every_goal_belongs_to_a_workload_that_exists() -> None:
    assert {goal.workload for goal in goals.GOALS} <= set(NAMED)
