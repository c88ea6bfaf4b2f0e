"""The cuts of the measured meshes by which rules are judged: half of the nodes each, and the slices after training.

Other halves than those the parameters were tuned on (seeds below 100), but halves of the same nodes: they are no
blind test. `../shared/netdata` beside the checkout, or --data, is where the measurements are.
"""

from pathlib import Path

import numpy as np
from yardstick import Cut

from causeway.routing.mesh import checked

DATA = Path(__file__).resolve().parents[3] / "shared" / "netdata"
SEEDS = (101, 102, 103)
MESHES = {  # file, seconds between slices, slices to learn from
    "volatile": ("seattle_172x70x70.npz", 16.0, (43, 86)),
    "stable": ("planetlab_6x300x300.npz", 43_200.0, (2, 3)),
}


def missing(data: Path) -> list[str]:
    return [name for name, _, _ in MESHES.values() if not (data / name).is_file()]


def judged(mesh: str, data: Path, seeds: tuple[int, ...] = SEEDS) -> list[Cut]:
    file, slice_s, trains = MESHES[mesh]
    with np.load(data / file) as arrays:
        rtt_ms = checked(arrays["rtt_ms"])
    cuts = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(rtt_ms.shape[1])
        middle = len(order) // 2
        for half, nodes in (("a", np.sort(order[:middle])), ("b", np.sort(order[middle:]))):
            part = rtt_ms[:, nodes][:, :, nodes]
            cuts += [Cut(f"{mesh} {seed}{half}, {train} to learn", part, train, slice_s) for train in trains]
    return cuts
