"""What holds for every mesh: no loop, direct never lost, dearer legs never preferred, and costs that add up."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.routing.costs import Outlook, outlook, path_costs
from causeway.routing.explain import ranked
from causeway.routing.legs import Forecast
from causeway.routing.switching import best

RTT_MS = st.one_of(st.floats(0.125, 3_000, width=32), st.just(float("inf")))


@st.composite
def outlooks(draw: st.DrawFn) -> Outlook:
    nodes = draw(st.integers(2, 6))

    def matrix(values: st.SearchStrategy[float]) -> np.ndarray:
        cells = draw(st.lists(values, min_size=nodes * nodes, max_size=nodes * nodes))
        return np.array(cells, dtype=np.float32).reshape(nodes, nodes)

    forecast = Forecast(matrix(RTT_MS), matrix(st.floats(0, 500, width=32)))
    chances = np.array(draw(st.lists(st.floats(0, 1), min_size=nodes * 5, max_size=nodes * 5))).reshape(nodes, 5)
    relays = np.array(sorted(draw(st.sets(st.integers(0, nodes - 1)))), dtype=np.intp)
    return outlook(matrix(RTT_MS), forecast, chances, draw(st.floats(0, 1)), relays, draw(st.floats(0, 20)))


def _all(seen: Outlook) -> np.ndarray:
    return path_costs(seen, slice(0, len(seen.reading_ms)))


@given(outlooks())
@settings(max_examples=60, deadline=None)
def test_no_path_loops_and_direct_is_never_lost(seen: Outlook) -> None:
    costs = _all(seen)
    assert not np.isnan(costs).any()
    for number, relay in enumerate(seen.relays):
        assert np.isinf(costs[relay, 1 + number]).all()
        assert np.isinf(costs[:, 1 + number, relay]).all()
    nodes = len(costs)
    for source in range(nodes):
        for target in range(nodes):
            paths = ranked(seen, source, target)
            assert [path for path in paths if path.relay is None], "direct is always in the list"
            assert not {source, target} & {path.relay for path in paths}
            assert [path.cost_ms for path in paths] == sorted(path.cost_ms for path in paths)


@given(outlooks())
@settings(max_examples=60, deadline=None)
def test_the_parts_of_an_explanation_add_up_to_the_cost_and_the_first_is_the_best(seen: Outlook) -> None:
    costs = _all(seen)
    for source, target in np.argwhere(~np.eye(len(costs), dtype=bool)):
        paths = ranked(seen, int(source), int(target))
        for path in paths:
            parts = sum(leg.cost_ms for leg in path.legs) + path.relay_ms + path.margin_ms
            np.testing.assert_allclose(parts, path.cost_ms, rtol=1e-4, atol=1e-3)
        candidate = best(costs)[source, target]
        assert paths[0].relay == (None if candidate == 0 else seen.relays[candidate - 1])


@given(outlooks(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_leg_that_costs_more_makes_no_path_cheaper(seen: Outlook, data: st.DataObject) -> None:
    nodes = len(seen.reading_ms)
    a, b = data.draw(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)))
    more = np.float32(data.draw(st.floats(0, 1_000, width=32)))
    dearer = seen.reading_ms.copy()
    dearer[a, b] += more
    level = seen.forecast.level_ms.copy()
    level[a, b] += more
    then = Outlook(
        dearer, Forecast(level, seen.forecast.tail_ms), seen.holds, seen.relay_holds, seen.lasts_slices,
        seen.relays, seen.relay_cost_ms,
    )  # fmt: skip
    before, after = _all(seen), _all(then)
    with np.errstate(invalid="ignore"):
        assert (after >= before - 1e-2).all()
    uses = np.zeros(before.shape, dtype=bool)
    uses[a, 0, b] = True
    for number, relay in enumerate(seen.relays):
        uses[a, 1 + number] |= relay == b
        uses[:, 1 + number, b] |= relay == a
    assert np.array_equal(before[~uses], after[~uses]), "paths without the leg cost what they did"


def test_of_equals_the_direct_path_is_taken() -> None:
    costs = np.full((2, 3, 2), 5, dtype=np.float32)
    assert (best(costs) == 0).all()
