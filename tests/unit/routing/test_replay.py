"""Routing by recorded measurements: causal, deterministic, never worse than it must be when paths are missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.meshes import stable, volatile

from causeway.routing.mesh import MalformedMesh, checked
from causeway.routing.relays import chosen_relays
from causeway.routing.replay import replay

MESHES = [(stable, 8, 3), (volatile, 40, 12)]  # slices, of which to learn from


@pytest.mark.parametrize(("make", "slices", "train"), MESHES)
@pytest.mark.parametrize("relays", [None, 4])
def test_a_slice_is_decided_from_the_slices_before_it(make, slices: int, train: int, relays: int | None) -> None:
    mesh = make(slices, 9, seed=7)
    choice = replay(mesh, train, 16, 1, relays).choice
    random = np.random.default_rng(1)
    for changed in range(train, slices):
        other = mesh.copy()
        other[changed:] = random.permuted(other[changed:], axis=2) * 3
        assert np.array_equal(replay(other, train, 16, 1, relays).choice[: changed + 1], choice[: changed + 1])


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(2, 12), st.data())
@settings(max_examples=25, deadline=None)
def test_any_mesh_has_a_path_for_each_pair_in_each_slice(seed: int, nodes: int, slices: int, data) -> None:
    random = np.random.default_rng(seed)
    mesh = volatile(slices, nodes, seed, every=data.draw(st.integers(1, 6)))
    mesh[random.random(mesh.shape) < data.draw(st.sampled_from([0, 0.1, 0.5, 1]))] = np.nan
    mesh[random.random(mesh.shape) < 0.05] = 0
    train = data.draw(st.integers(1, slices - 1))
    relays = data.draw(st.sampled_from([None, 0, 1, 3, 50]))
    done = replay(mesh, train, 16, 1, relays)
    assert done.choice.shape == mesh.shape
    assert done.choice.dtype == np.int16
    assert (done.choice[:train] == -1).all()
    assert done.choice.min() >= -1
    assert done.choice.max() < nodes
    place = np.arange(nodes)
    assert (done.choice != place[None, :, None]).all(), "a relay that is the source"
    assert (done.choice != place[None, None, :]).all(), "a relay that is the target"
    assert len(np.setdiff1d(done.choice, [-1])) <= (nodes if relays is None else relays)
    again = replay(mesh, train, 16, 1, relays)
    assert np.array_equal(done.choice, again.choice)
    assert done.outcome == again.outcome


@pytest.mark.parametrize("train", [0, -1, 8, 9])
def test_there_must_be_something_to_learn_from_and_something_to_judge(train: int) -> None:
    with pytest.raises(MalformedMesh, match="of 8"):
        replay(stable(8, 4, seed=1), train, 16, 1)


def test_a_mesh_without_detours_is_left_alone() -> None:
    place = np.random.default_rng(2).uniform(0, 100, 10)
    line = np.abs(place[:, None] - place[None]) + 20  # on a line a relay only adds
    mesh = line * np.random.default_rng(3).lognormal(0, 0.01, (6, 10, 10))
    assert (replay(mesh, 2, 16, 1).choice == -1).all()


def test_a_steady_detour_is_taken_from_the_first_slice_and_kept() -> None:
    mesh = stable(8, 6, seed=4)
    mesh[:, 0, 1] = 400
    mesh[:, 1, 0] = 400
    chosen = replay(mesh, 2, 16, 1).choice[2:, 0, 1]
    assert chosen[0] >= 0
    assert (chosen == chosen[0]).all()


def test_a_relay_that_fails_is_left_in_the_next_slice_and_direct_is_there_for_those_without_any() -> None:
    mesh = stable(10, 6, seed=4)
    mesh[:, 0, 1] = mesh[:, 1, 0] = 400
    relay = int(replay(mesh, 2, 16, 1).choice[5, 0, 1])
    mesh[5:, relay] = np.nan
    mesh[5:, :, relay] = np.inf
    choice = replay(mesh, 2, 16, 1).choice
    assert choice[5, 0, 1] == relay, "nobody could know yet"
    assert choice[6, 0, 1] not in (relay, -1), "another relay, for direct is slow"
    assert (choice[6:] != relay).all()
    mesh[5:, 0] = np.nan
    assert (replay(mesh, 2, 16, 1).choice[6:, 0] == -1).all()


def test_the_bill_adds_up() -> None:
    mesh = checked(volatile(30, 6, seed=9))
    done = replay(mesh, 10, 16, 2.5)
    direct, chosen, switches, slower = [], [], 0, 0
    for a in range(6):
        for b in (other for other in range(6) if other != a):
            relay = done.choice[10:, a, b]
            taken = [
                mesh[10 + t, a, b] if r < 0 else mesh[10 + t, a, r] + mesh[10 + t, r, b] + 2.5
                for t, r in enumerate(relay)
            ]
            direct.append(mesh[10:, a, b].mean())
            chosen.append(np.mean(taken))
            switches += int((relay[1:] != relay[:-1]).sum())
            slower += chosen[-1] > 1.05 * direct[-1]
    assert done.outcome.direct_ms == pytest.approx(np.mean(direct), rel=1e-5)
    assert done.outcome.chosen_ms == pytest.approx(np.mean(chosen), rel=1e-5)
    assert done.outcome.switches_per_pair == pytest.approx(switches / 30)
    assert done.outcome.slower_share == pytest.approx(slower / 30)
    assert done.outcome.chosen_ms < done.outcome.direct_ms


def test_relays_are_chosen_that_serve_most_pairs_together() -> None:
    mesh = np.full((3, 7, 7), 100, dtype=np.float32)
    mesh[:, 2, :] = mesh[:, :, 2] = 30  # one hub for everybody
    mesh[:, 5, :3] = mesh[:, :3, 5] = 20  # one more for three of them
    assert chosen_relays(mesh, 1, 1).tolist() == [2]
    assert chosen_relays(mesh, 2, 1).tolist() == [2, 5]
    assert len(chosen_relays(mesh, 99, 1)) == 7


def test_a_known_mesh_gives_the_choices_that_it_gave() -> None:
    choice = replay(volatile(24, 5, seed=26), 8, 16, 1).choice
    assert choice[8:, 2, 4].tolist() == GOLDEN


# Of one pair. A change of the rule changes this line, and the tables of docs/smart-routing.md.
GOLDEN = [1, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3, 1, 1, -1, -1, -1]
