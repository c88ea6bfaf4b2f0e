"""Routes of a network at work: from readings of every slice to ranked paths, and what holds whatever comes."""

import math
import random

import pytest

from causeway.routing import ranks, router
from causeway.routing.network import EdgeSeen, Network, Route
from causeway.routing.ranks import MOST_PATHS

APP, OTHER = "app", "other"
INF = math.inf


def network(
    direct_ms: float | None = 120, *, leg_ms: float = 20, exit_ms: float | None = 20, relays: bool = True
) -> list[EdgeSeen]:
    """Two edges: clients come to ams, the origin is near to fra."""

    def to(ms: float | None) -> dict[str, float]:
        return {} if ms is None else {APP: ms}

    return [
        EdgeSeen("ams", {"fra": leg_ms}, to(direct_ms)),
        EdgeSeen("fra", {"ams": leg_ms}, to(exit_ms), relays=relays),
    ]


def after(slices: list[list[EdgeSeen]], applications: tuple[str, ...] = (APP,)) -> dict[str, Route]:
    made = Network()
    routes: list[Route] = []
    for number, edges in enumerate(slices):
        routes = list(made.step(edges, applications, number * 2.0))
    return {route.edge: route for route in routes if route.application == APP}


def test_the_first_choice_is_the_best_and_costs_nothing() -> None:
    assert after([network()])["ams"].paths == (("fra",), ())
    assert after([network(direct_ms=30)])["ams"].paths == ((), ("fra",))


@pytest.mark.parametrize(
    ("edges", "paths"),
    [
        (network(direct_ms=None), None),  # what direct costs is not known
        (network(exit_ms=None), ((),)),  # nor whether the origin is reached from there
        (network(relays=False), ((),)),
        (network(leg_ms=INF), ((),)),
        (network(direct_ms=INF), (("fra",), ())),
        (network(direct_ms=INF, exit_ms=INF), ((),)),
    ],
)
def test_what_is_not_known_or_leads_nowhere_is_no_way(
    edges: list[EdgeSeen], paths: tuple[tuple[str, ...], ...] | None
) -> None:
    found = after([edges]).get("ams")
    assert (found.paths if found else None) == paths


def test_a_path_that_fails_is_left_in_the_next_slice_and_a_slow_one_within_twenty() -> None:
    well = [network() for _ in range(20)]
    assert after([*well, network(leg_ms=INF)])["ams"].paths[0] == ()
    assert after([*well, network(exit_ms=INF)])["ams"].paths[0] == ()
    slow = [network(exit_ms=300) for _ in range(20)]
    assert after([*well, *slow])["ams"].paths[0] == ()
    again = [network() for _ in range(40)]
    assert after([*well, *slow, *again])["ams"].paths[0] == ("fra",)


def test_of_ways_that_are_as_long_the_one_that_ends_near_the_origin_is_taken_for_its_short_handshake() -> None:
    edges = [
        EdgeSeen("ams", {"lon": 40.0, "nyc": 78.0}, {APP: 200.0}),
        EdgeSeen("lon", {"ams": 40.0}, {APP: 40.0}),
        EdgeSeen("nyc", {"ams": 78.0}, {APP: 2.0}),
    ]
    found = after([edges])["ams"]
    assert found.paths[0] == ("nyc",)
    costs = [candidate.cost_ms for candidate in found.candidates]
    assert costs[1] - costs[0] == pytest.approx((40 - 2) / 20, abs=0.01)
    assert found.direct_ms == pytest.approx(200 * 1.05)
    assert dict(found.candidates[0].parts_ms)["nyc - origin"] == pytest.approx(2)


def test_a_path_that_fails_again_and_again_is_not_taken_in_between_and_the_only_one_is_taken_at_once() -> None:
    made, paths = Network(), []
    for number in range(120):
        is_cut = number >= 10 and number % 10 < 5
        edges = network(leg_ms=INF if is_cut else 20)
        [route] = [one for one in made.step(edges, [APP], float(number)) if one.edge == "ams"]
        paths.append(route.paths[0])
    assert paths[:10] == [("fra",)] * 10 and set(paths[10:]) == {()}
    for number in range(120, 150):
        [route] = [one for one in made.step(network(), [APP], float(number)) if one.edge == "ams"]
    assert route.paths[0] == ("fra",), "it has been well for long enough"
    for direct_ms, leg_ms, first in ((120, INF, ()), (INF, 20, ("fra",))):
        number += 1
        edges = network(direct_ms, leg_ms=leg_ms)
        [route] = [one for one in made.step(edges, [APP], float(number)) if one.edge == "ams"]
        assert route.paths[0] == first


def test_that_a_relay_failed_and_is_gone_says_nothing_against_the_direct_path() -> None:
    def edges(direct_ms: float, others: dict[str, float]) -> list[EdgeSeen]:
        there = [EdgeSeen(name, {"ams": ms}, {APP: 20.0}) for name, ms in others.items()]
        return [EdgeSeen("ams", {**others}, {APP: direct_ms}), *there]

    made = Network()
    for number in range(10):
        made.step(edges(120, {"fra": 20.0, "lon": 40.0}), [APP], float(number))
    made.step(edges(120, {"fra": INF, "lon": 40.0}), [APP], 10.0)
    made.step(edges(120, {"lon": 40.0}), [APP], 11.0)
    for number in range(12, 20):
        routes = made.step(edges(10, {"lon": 40.0}), [APP], float(number))
    assert next(route for route in routes if route.edge == "ams").paths[0] == ()


def test_noise_moves_nothing() -> None:
    chance = random.Random(1)
    made, moves, before = Network(), 0, None
    for number in range(300):
        noise = [chance.gauss(0, 1.5) for _ in range(3)]
        edges = network(62 + noise[0], leg_ms=30 + noise[1], exit_ms=30 + noise[2])
        [route] = [one for one in made.step(edges, [APP], number * 2.0) if one.edge == "ams"]
        moves += before is not None and route.paths[0] != before
        before = route.paths[0]
    assert moves <= 2


def test_an_edge_or_an_application_that_comes_or_goes_changes_nothing_for_others() -> None:
    made = Network()
    for number in range(10):
        made.step(network(), [APP], number * 2.0)
    more = [*network(), EdgeSeen("nyc", {"ams": 80.0, "fra": 90.0}, {OTHER: 5.0})]
    [since] = {route.since_s for route in made.step(network(), [APP], 20.0) if route.edge == "ams"}
    for edges, applications in ((more, [APP, OTHER]), (more, [APP]), (network(), [APP])):
        routes = {(one.edge, one.application): one for one in made.step(edges, applications, 22.0)}
        assert routes["ams", APP].paths[0] == ("fra",) and routes["ams", APP].since_s == since
    assert list(made.step([], [APP], 24.0)) == []
    assert list(made.step(network(), [], 26.0)) == []


def test_whatever_comes_direct_is_there_no_path_comes_back_and_costs_add_up() -> None:
    chance = random.Random(7)
    names = ["ams", "fra", "lon", "nyc", "par", "tyo"]
    made = Network()
    for number in range(120):
        there = sorted(chance.sample(names, chance.randint(2, 6)))

        def some(of: list[str]) -> dict[str, float]:
            return {one: chance.choice([INF, chance.uniform(0.05, 300)]) for one in of if chance.random() < 0.8}

        edges = [EdgeSeen(name, some(there), some([APP, OTHER]), chance.random() < 0.9) for name in there]
        for route in made.step(edges, [APP, OTHER], number * 2.0):
            assert () in route.paths and len(set(route.paths)) == len(route.paths) <= MOST_PATHS
            assert all(route.edge not in path for path in route.paths)
            for candidate in route.candidates:
                total = sum(ms for _, ms in candidate.parts_ms)
                assert total == pytest.approx(candidate.cost_ms, rel=1e-4) or not math.isfinite(candidate.cost_ms)


def test_the_same_slices_give_the_same_routes() -> None:
    def run() -> list[list[Route]]:
        chance, made = random.Random(3), Network()
        return [list(made.step(network(chance.uniform(20, 200)), [APP], at * 2.0)) for at in range(50)]

    assert run() == run()


def test_ways_that_become_known_one_after_the_other_are_weighed_as_if_they_had_all_been_known() -> None:
    made = Network()
    edges = [EdgeSeen("ams", {"lon": 40.0, "nyc": 76.0}, {APP: 200.0}), EdgeSeen("lon", {"ams": 40.0}, {APP: 41.0})]
    for number, more in enumerate([[], [], [EdgeSeen("nyc", {"ams": 76.0}, {APP: 2.0})]]):
        routes = made.step([*edges, *more], [APP], float(number))
    assert next(route for route in routes if route.edge == "ams").paths[0] == ("nyc",)


def test_where_not_each_candidate_is_looked_at_the_same_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    names, applications = [f"e{number}" for number in range(7)], [f"a{number}" for number in range(20)]

    def run() -> list[list[tuple[str, str, tuple[tuple[str, ...], ...]]]]:
        chance, made, found = random.Random(5), Network(), []
        usual = {(one, to): chance.uniform(5, 200) for one in names for to in (*names, *applications)}

        def now(one: str, of: list[str]) -> dict[str, float]:
            ways = {to: usual[one, to] * chance.uniform(0.8, 1.3) for to in of if to != one}
            return {to: INF if chance.random() < 0.02 else ms for to, ms in ways.items() if chance.random() < 0.97}

        for at in range(60):
            edges = [EdgeSeen(one, now(one, names), now(one, applications), relays=one != "e3") for one in names]
            routes = made.step(edges, applications, float(at))
            found.append([(route.edge, route.application, route.paths) for route in routes])
        return found

    each = run()
    monkeypatch.setattr(router, "MOST_AT_ONCE", 1)
    assert run() == each
    monkeypatch.setattr(router, "_IN_CACHE", 1)
    assert run() == each
    assert len({paths for slice_ in each for _, _, paths in slice_}) > 50


def test_pairs_that_wait_to_be_ranked_have_the_path_in_use_and_the_direct_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_MOST_RANKED", 1)
    made, edges = Network(), [*network(), EdgeSeen("lon", {"ams": 30.0, "fra": 30.0}, {APP: 60.0})]
    first = {route.edge: route.paths for route in made.step(edges, [APP], 0.0)}
    assert first == {"ams": (("fra",), ("lon",), ()), "fra": ((),), "lon": (("fra",), ())}
    for at in range(1, 4):
        routes = made.step(edges, [APP], float(at))
        assert [routes.is_new(edge) for edge in ("ams", "fra", "lon")] == [False, at == 1, at == 2]
    assert routes.ways("lon") == {APP: (("fra",), (), ("ams",))}
    assert routes.ways("fra")[APP][0] == ()
    assert list(routes.changed()) == [] and routes.ways("nobody") == {}
