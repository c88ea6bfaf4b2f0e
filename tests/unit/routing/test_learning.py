"""What is learnt from reports: when the next is due, what a leg costs then, and that one bad reading proves little."""

from itertools import pairwise

import numpy as np
import pytest
from support.meshes import levels, stable, volatile

from causeway.routing.holds import Holds
from causeway.routing.legs import Legs
from causeway.routing.mesh import between

NODES = 8


def _learnt(mesh: np.ndarray) -> Holds:
    pairs = between(mesh.shape[1])
    holds = Holds(len(pairs))
    for before, after in pairwise(mesh):
        holds.observe((before != after) & pairs, pairs)
    return holds


def test_a_node_that_reports_every_fifth_slice_is_expected_then_and_not_before() -> None:
    mesh = volatile(41, NODES, seed=3)
    chance = _learnt(mesh).replaced_next(10)
    changed = (mesh[1:] != mesh[:-1]).any(axis=2)
    for node in range(NODES):
        since = int(np.argmax(changed[::-1, node]))  # slices since the last report
        due = 4 - since
        assert chance[node, due] > 0.8
        assert chance[node, :due].max(initial=0) < 0.2


def test_a_mesh_measured_anew_in_every_slice_holds_nothing() -> None:
    assert _learnt(stable(10, NODES, seed=1)).replaced_next(4)[:, 0].min() > 0.9


def test_a_mesh_that_never_changes_is_believed() -> None:
    still = np.repeat(stable(1, NODES, seed=1), 40, axis=0)
    assert _learnt(still).replaced_next(4).max() < 0.05


def test_legs_that_change_one_by_one_are_expected_as_often_as_they_did() -> None:
    random, nodes = np.random.default_rng(5), 30
    mesh = stable(1, nodes, seed=1).repeat(60, axis=0)
    for slice_ in range(1, 60):
        changes = random.random((nodes, nodes)) < 0.1
        mesh[slice_:] += np.where(changes, np.float32(1), np.float32(0))
    chance = _learnt(mesh).replaced_next(3)[:, 0]
    assert 0.05 < chance.min() <= chance.max() < 0.2


def test_levels_are_found_from_both_ends_in_few_reports() -> None:
    legs, pairs = Legs(NODES, NODES), between(NODES)
    for slice_ in stable(4, NODES, seed=2):
        legs.observe(slice_, np.triu(pairs))  # only one direction is ever measured
    found = legs.forecast().level_ms
    assert found[pairs] == pytest.approx(levels(NODES, 2)[pairs], rel=0.08)
    assert np.isinf(np.diagonal(found)).all()


def test_one_bad_reading_moves_a_level_little() -> None:
    pairs = between(NODES)
    calm, bad = Legs(NODES, NODES), Legs(NODES, NODES)
    for number, slice_ in enumerate(stable(8, NODES, seed=2)):
        calm.observe(slice_, pairs)
        struck = slice_.copy()
        struck[0, 1] = 3_000 if number == 5 else struck[0, 1]
        bad.observe(struck, pairs)
    before, after = calm.forecast().level_ms[0, 1], bad.forecast().level_ms[0, 1]
    assert before < after < 1.6 * before


def test_a_node_whose_legs_are_sometimes_bad_is_expected_to_be_so() -> None:
    pairs, legs = between(NODES), Legs(NODES, NODES)
    for number, slice_ in enumerate(stable(20, NODES, seed=2)):
        struck = slice_.copy()
        struck[3, number % NODES] = 2_000  # another leg of node 3 each time
        legs.observe(struck, pairs)
    tail = legs.forecast().tail_ms
    others = [node for node in range(NODES) if node != 3]
    assert tail[3, others].min() > 3 * tail[np.ix_(others, others)].max()


def test_what_was_never_measured_is_no_leg() -> None:
    legs, pairs = Legs(NODES, NODES), between(NODES)
    mesh = stable(3, NODES, seed=2)
    mesh[:, 2, 5] = mesh[:, 5, 2] = np.inf
    for slice_ in mesh:
        legs.observe(slice_, pairs)
    level = legs.forecast().level_ms
    assert np.isinf(level[2, 5])
    assert np.isfinite(level[2, 4])
