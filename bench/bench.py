"""Everybody who takes part, up at once, and the rounds in which they are measured one by one.

Knows nothing of goals, tables or options but those it is given.
"""

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import figures
import machine
from contestants import Contestant, Running, Unavailable
from figures import Samples
from sample import CALM_CPUS, Load, Sample, gate, take, wait_until_carrying
from workloads import Workload
from world import World, directory, inside, world

CALM_TRIES = 4
PROXY_CPU, LOAD_CPU = "0", "1"


@dataclass(frozen=True, slots=True)
class How:
    """How long, how often and where."""

    contestants: list[Contestant]
    rounds: int
    seconds: float
    is_pinned: bool
    is_calm: bool
    congestion: str | None = None


class Bench:
    """The world, the origin and everybody who takes part, up until the stack is closed."""

    def __init__(self, stack: ExitStack, how: How) -> None:
        self.how = how
        program = machine.build("causeway-load")
        self.facts = machine.facts()
        self.absent: dict[str, str] = {}
        rows = how.contestants
        home = stack.enter_context(directory())
        self.world: World = stack.enter_context(world(len(rows), how.congestion))
        proxy_pin, load_pin = (("taskset", "-c", cpu) if how.is_pinned else () for cpu in (PROXY_CPU, LOAD_CPU))
        origin = start_origin(stack, program, self.world, len(rows), load_pin)
        self.load = Load(program, self.world, origin, how.seconds, min(0.2, how.seconds / 5), load_pin)
        self.running: list[Running] = []
        for place, row in enumerate(rows):
            try:
                running = row.run(self.world, place, home / row.name, proxy_pin)
                stack.callback(running.stop)
                wait_until_carrying(self.load, running)
                gate(self.load, running)
            except Unavailable as reason:
                self._drop(row.name, reason)
            else:
                self.running.append(running)
                print(f"{row.name}: up on {running.target}, every byte right", flush=True)

    def measure(self, workloads: list[Workload]) -> dict[Workload, Samples]:
        results: dict[Workload, Samples] = {}
        for workload in workloads:
            results[workload] = {}
            for turn in range(self.how.rounds):
                first = turn % max(1, len(self.running))
                for running in self.running[first:] + self.running[:first]:
                    if not _takes_part(running, workload):
                        continue
                    try:
                        sample = self._calm_sample(running, workload)
                    except Unavailable as reason:
                        self._drop(running.contestant.name, reason)
                        self.running.remove(running)
                        continue
                    results[workload].setdefault(running.contestant.name, []).append(sample)
            results[workload] = {name: results[workload][name] for name in figures.in_order(set(results[workload]))}
            series = figures.values(results[workload])
            said = (f"{name} {figures.middle(series, name) or 0:,.4g}" for name in series)
            print(f"{workload.name} {workload.unit}: {', '.join(said)}", flush=True)
        return results

    def _calm_sample(self, running: Running, workload: Workload) -> Sample:
        sample = take(self.load, running, workload)
        for _ in range(CALM_TRIES - 1 if self.how.is_calm else 0):
            if sample.others_cpus <= CALM_CPUS:
                break
            sample = take(self.load, running, workload)
        return sample

    def _drop(self, name: str, reason: Unavailable) -> None:
        self.absent[name] = str(reason)
        print(f"\n!!! {name} IS LEFT OUT: {reason}\n", file=sys.stderr, flush=True)


def _takes_part(running: Running, workload: Workload) -> bool:
    if workload.is_memory:
        return running.pid is not None
    return running.contestant.carries_udp or not workload.is_udp


def start_origin(
    stack: ExitStack, program: Path, made: World, places: int, pin: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    binds = [word for place in range(places) for word in ("--bind", made.origin_address(place))]
    words = [*inside(made.origin), *pin, str(program), "origin", *binds, "--max-seconds", "3600"]
    pipe = subprocess.PIPE
    origin = subprocess.Popen(words, stdin=pipe, stdout=pipe, start_new_session=True)
    assert origin.stdin and origin.stdout
    stack.callback(origin.wait)
    stack.callback(origin.stdin.close)  # it ends with its stdin
    if b"ready" not in origin.stdout.readline():
        raise SystemExit("bench: the origin did not start")
    return origin
