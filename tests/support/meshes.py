"""Meshes as they are measured: small, made from a seed, volatile or stable."""

import numpy as np


def levels(nodes: int, seed: int) -> np.ndarray:
    """Round trips between places on a plane, and a detour on every fourth leg: relays have something to win."""
    random = np.random.default_rng(seed)
    place = random.uniform(0, 100, (nodes, 2))
    distance = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1)) + 10
    detour = np.where(random.random((nodes, nodes)) < 0.25, random.uniform(1.5, 4, (nodes, nodes)), 1.0)
    return distance * np.maximum(detour, detour.T)


def stable(slices: int, nodes: int, seed: int) -> np.ndarray:
    """Every leg is measured anew in every slice, and differs little."""
    random = np.random.default_rng(seed + 1)
    return (levels(nodes, seed) * random.lognormal(0, 0.03, (slices, nodes, nodes))).astype(np.float32)


def volatile(slices: int, nodes: int, seed: int, every: int = 5) -> np.ndarray:
    """A node reports all its legs every few slices, each far from what it was; in between they are repeated."""
    random = np.random.default_rng(seed + 2)
    drawn = levels(nodes, seed) * random.lognormal(0, 0.8, (slices, nodes, nodes))
    first = random.integers(0, every, nodes)
    mesh = np.empty((slices, nodes, nodes), dtype=np.float32)
    for node in range(nodes):
        last = 0
        for slice_ in range(slices):
            last = slice_ if slice_ % every == first[node] else last
            mesh[slice_, node] = drawn[last, node]
    return mesh
