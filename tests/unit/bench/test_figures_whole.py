"""The CPU of the whole machine: everybody's, divided by what was done, against the peer that costs least itself."""

import figures
import pytest
from sample import Sample


def _sample(value: float, proxy: float, others: float = 0.0) -> Sample:
    return Sample(value, proxy / value, None, 0, 0, 0, 0, None, proxy, 0.5, 0.25, others)


def test_it_counts_client_origin_and_others_too() -> None:
    series = figures.whole({"nginx": [_sample(10, 0.25)], "direct": [_sample(20, 0.0, others=0.25)]})
    assert series == {"nginx": [0.1], "direct": [0.05]}


def test_nothing_done_has_no_figure() -> None:
    done_nothing = Sample(0.0, None, None, 1, 0, 0, 0, "refused", 0.1, 0.5, 0.25, 0.0)
    assert figures.whole({"nginx": [done_nothing]}) == {"nginx": [None]}


def test_it_is_held_against_the_peer_that_costs_least_itself() -> None:
    samples = {"causeway": [_sample(10, 0.5)], "nginx": [_sample(10, 0.25)], "haproxy": [_sample(10, 0.75)]}
    ratio = figures.whole_against_best(samples, "causeway")
    assert ratio and ratio.against == "nginx" and ratio.median == pytest.approx(1.25)
