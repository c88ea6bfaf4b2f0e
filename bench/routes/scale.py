"""How long do routes take to decide, for how many edges and applications, and how large is what edges are told?

A made-up world: edges and origins on a plane, ways up to twice as long as they could be, readings that differ by 2 %
from second to second. Every edge has flows of every application, which is the most that there can be. Prints a line of
Markdown for each size. Needs nothing but what `make setup` brings; the largest size takes a minute and 1.1 GB.
"""

import argparse
import resource
import statistics
import sys
import time

import numpy as np

from causeway.model.routes import encode_routes
from causeway.routing.network import EdgeSeen, Network

SIZES = ((3, 100), (10, 100), (20, 200), (30, 1_000), (100, 3_000), (300, 10_000))
NOISE = 0.02
SETTLING, JUDGED = 6, 5  # slices; in the first ones pairs take their first choices
GOAL_S = 1.0


class World:
    def __init__(self, edges: int, applications: int) -> None:
        chance = np.random.default_rng(1)
        at, origins = chance.uniform(0, 100, (edges, 2)), chance.uniform(0, 100, (applications, 2))
        legs = _far(at, at) * chance.uniform(1, 2, (edges, edges))
        self._legs_ms, self._chance = (legs + legs.T) / 2, chance
        self._reach_ms = _far(at, origins) * chance.uniform(1, 2, (edges, applications))
        self.names = [f"e{number:03d}-1" for number in range(edges)]
        self.applications = [f"{number:032x}" for number in range(applications)]

    def seen(self) -> list[EdgeSeen]:
        legs, reach = (ms * self._chance.normal(1, NOISE, ms.shape) for ms in (self._legs_ms, self._reach_ms))
        found = []
        for number, name in enumerate(self.names):
            to = dict(zip(self.names, legs[number].tolist(), strict=True))
            del to[name]
            found.append(EdgeSeen(name, to, dict(zip(self.applications, reach[number].tolist(), strict=True))))
        return found


def _far(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.hypot(*(one[:, None, axis] - other[None, :, axis] for axis in (0, 1))) * 1.5 + 1


def measured(edges: int, applications: int) -> tuple[list[str], float]:
    world, network = World(edges, applications), Network()
    first_s, took_s, new = 0.0, [], 0
    for number in range(SETTLING + JUDGED):
        seen = world.seen()
        begin_s = time.perf_counter()
        routes = network.step(seen, world.applications, float(number))
        lasted_s = time.perf_counter() - begin_s
        first_s = first_s or lasted_s
        if number >= SETTLING:
            took_s.append(lasted_s)
            new += sum(routes.is_new(name) for name in world.names)
    told = encode_routes(1, routes.ways(world.names[0]), [], [])
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    step_s = statistics.median(took_s)
    figures = [
        f"{edges:,}", f"{applications:,}", f"{first_s:.3f} s", f"{step_s:.3f} s", f"{memory_mb:,.0f} MB",
        f"{len(told) / 1e3:,.1f} kB", f"{new / JUDGED:.1f}",
    ]  # fmt: skip
    return figures, step_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most-edges", type=int, default=300)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a second is not enough")
    options = parser.parse_args()
    head = ("edges", "applications", "first second", "each second", "memory", "plan of an edge", "plans told anew")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    is_missed = False
    for edges, applications in SIZES:
        if edges <= options.most_edges:
            figures, step_s = measured(edges, applications)
            is_missed |= step_s > GOAL_S
            print(f"| {' | '.join(figures)} |", flush=True)
    return 1 if options.check and is_missed else 0


if __name__ == "__main__":
    sys.exit(main())
