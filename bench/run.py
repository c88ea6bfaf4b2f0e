"""make bench: causeway beside HAProxy, nginx and no proxy, interleaved, in network namespaces of their own.

Method and how to read the numbers: docs/benchmarks.md. Ends with 0; with --check, 1 where a goal fails twice;
2 when it cannot measure at all.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import goals
import machine
import report
from contestants import CONTESTANTS, Contestant, Running, Unavailable
from sample import Load, Sample, gate, take, wait_until_carrying
from workloads import WORKLOADS, Workload
from world import World, directory, inside, world

RESULTS = Path(__file__).resolve().parent / "results"
CALM_CPUS = 0.3
CALM_TRIES = 4
PROXY_CPU, LOAD_CPU = "0", "1"


def main() -> int:
    options = _options()
    if reason := _cannot_run():
        print(f"bench: cannot measure: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    program = _build_load()
    started = time.strftime("%Y-%m-%dT%H-%M-%S")
    with ExitStack() as stack:
        # Registered first, so it runs last; the second Ctrl-C must not stop the clean-up half-way.
        stack.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
        try:
            bench = Bench(stack, program, options)
            results = bench.measure(options.only)
            verdicts = goals.judge(results)
            repeated = _repeat_failed(bench, verdicts) if options.check else {}
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        strays = bench.world.strays()
    print(f"\n{report.text(results)}\n\nStrays: {strays} packets tried to leave the namespaces.")
    if bench.absent:
        print("".join(f"\nNOT MEASURED: {name}: {reason}" for name, reason in bench.absent.items()))
    again = goals.judge(repeated)
    missed = _say_verdicts(verdicts, again)
    content = {
        "format": 1,
        "started": started,
        "options": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "pin": options.pin,
            "calm": options.calm,
        },
        "machine": bench.facts,
        "versions": {row.name: row.version() for row in options.contestants if row.name not in bench.absent},
        "not_measured": bench.absent,
        "strays": strays,
        "workloads": report.as_json(results),
        "goals": [asdict(verdict) for verdict in verdicts],
        "repeated": {"workloads": report.as_json(repeated), "goals": [asdict(verdict) for verdict in again]},
    }
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{started}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nresults: {path}")
    return 1 if options.check and missed else 0


class Bench:
    """The world, the origin and everybody who takes part, up until the stack is closed."""

    def __init__(self, stack: ExitStack, program: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.facts = machine.facts()
        self.absent: dict[str, str] = {}
        rows: list[Contestant] = options.contestants
        home = stack.enter_context(directory())
        self.world: World = stack.enter_context(world(len(rows)))
        proxy_pin, load_pin = (("taskset", "-c", cpu) if options.pin else () for cpu in (PROXY_CPU, LOAD_CPU))
        origin = _start_origin(stack, program, self.world, len(rows), load_pin)
        self.load = Load(program, self.world, origin, options.seconds, min(0.2, options.seconds / 5), load_pin)
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

    def measure(self, workloads: list[Workload]) -> dict[Workload, report.Samples]:
        results: dict[Workload, report.Samples] = {}
        for workload in workloads:
            results[workload] = {}
            for turn in range(self.options.rounds):
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
            results[workload] = {
                row.name: results[workload][row.name] for row in CONTESTANTS if row.name in results[workload]
            }
            said = (f"{name} {report.middle(taken):,.4g}" for name, taken in results[workload].items())
            print(f"{workload.name} {workload.unit}: {', '.join(said)}", flush=True)
        return results

    def _calm_sample(self, running: Running, workload: Workload) -> Sample:
        sample = take(self.load, running, workload)
        for _ in range(CALM_TRIES - 1 if self.options.calm else 0):
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


def _repeat_failed(bench: Bench, verdicts: list[goals.Verdict]) -> dict[Workload, report.Samples]:
    failed = {verdict.workload for verdict in verdicts if not verdict.is_met}
    if failed:
        print(f"\nrepeating alone: {', '.join(sorted(failed))}", flush=True)
    return bench.measure([workload for workload in WORKLOADS if workload.name in failed])


def _say_verdicts(first: list[goals.Verdict], again: list[goals.Verdict]) -> bool:
    """Print them; true when some goal is missed for good, or nothing could be judged."""
    if not first:
        print(f"goals: not judged, for {goals.SUBJECT} or the workloads that have one were not measured")
        return True
    second = {verdict.workload: verdict for verdict in again}
    missed = False
    for verdict in first:
        last = second.get(verdict.workload)
        is_met = verdict.is_met or (last is not None and last.is_met)
        missed = missed or not is_met
        found = verdict.found + (f"; again: {last.found}" if last else "")
        print(f"{'goal met' if is_met else 'GOAL MISSED'}: {verdict.workload}: {verdict.sentence} ({found})")
    return missed


def _start_origin(
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


def _build_load() -> Path:
    cargo = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "causeway-load"]
    subprocess.run(cargo, cwd=machine.REPOSITORY, check=True)
    described = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"],
        cwd=machine.REPOSITORY,
        capture_output=True,
        check=True,
    )
    return Path(json.loads(described.stdout)["target_directory"]) / "release" / "causeway-load"


def _cannot_run() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces need root; run it with sudo"
    packages = {"ip": "iproute2", "nft": "nftables", "setpriv": "util-linux", "cargo": "a Rust toolchain"}
    missing = [f"{name} ({package})" for name, package in packages.items() if not shutil.which(name)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    probe = subprocess.run(["ip", "netns", "add", f"cwb{os.getpid()}c"], capture_output=True, text=True)
    if probe.returncode != 0:
        return f"no network namespace can be made here: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"cwb{os.getpid()}c"], check=True)
    return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure causeway beside its peers.", allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.2, help="length of a run, of which 0.2 are warm-up")
    parser.add_argument("--only", type=_pick(WORKLOADS), default=list(WORKLOADS), metavar="WORKLOAD[,…]")
    parser.add_argument("--contestants", type=_pick(CONTESTANTS), default=list(CONTESTANTS), metavar="NAME[,…]")
    parser.add_argument("--pin", action="store_true", help="proxies on CPU 0, load on CPU 1")
    parser.add_argument("--calm", action="store_true", help="repeat runs that other work disturbed")
    parser.add_argument("--quick", action="store_true", help="one round of half a second: does it work at all")
    parser.add_argument("--check", action="store_true", help="end with 1 when a goal fails twice")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIRECTORY")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    if not (1 <= options.rounds <= 100 and 0.1 <= options.seconds <= 60):
        parser.error("--rounds 1 to 100, --seconds 0.1 to 60")
    return options


def _pick(rows: tuple):
    known = {row.name: row for row in rows}

    def pick(words: str) -> list:
        wanted = words.split(",")
        if unknown := [word for word in wanted if word not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return [row for row in rows if row.name in wanted]

    return pick


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
