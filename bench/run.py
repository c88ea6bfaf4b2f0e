"""make bench: causeway beside HAProxy, nginx, Envoy and no proxy, interleaved, in network namespaces of their own.

Method and how to read the numbers: docs/benchmarks.md. Ends with 0; with --check, 1 where a gate fails twice;
2 on wrong usage; 3 when it cannot measure at all.
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
import hotspots
import markdown
import report
import syscalls
from bench import Bench, How
from contestants import CONTESTANTS, FAST_PATH, FAST_PATH_V2, GUARDED, LOOPS, with_workers
from figures import Samples
from goals import State, Verdict
from workloads import WORKLOADS, Workload
from world import NotAllowed

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    options = _options()
    tool = syscalls.cannot_count if options.syscalls else hotspots.cannot_sample if options.profile else lambda: None
    if reason := _cannot_run() or tool():
        print(f"bench: cannot measure: {reason}", file=sys.stderr)
        return 3
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.strftime("%Y-%m-%dT%H-%M-%S")
    more = with_workers(options.workers) if options.workers > 1 else None
    how = How(
        options.contestants + ([more] if more else []),
        options.rounds,
        options.seconds,
        options.pin,
        options.calm,
        options.congestion,
    )
    results: dict[Workload, Samples] = {}
    repeated: dict[Workload, Samples] = {}
    counts: syscalls.Counts = {}
    profile: hotspots.Profile = {}
    verdicts: list[Verdict] = []
    with ExitStack() as stack:
        # Registered first, so it runs last; the second Ctrl-C must not stop the clean-up half-way.
        stack.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
        try:
            bench = Bench(stack, how)
            if options.syscalls:
                counts = syscalls.count_all(bench.load, bench.running)
            elif options.profile:
                profile = hotspots.sample_all(bench.load, bench.running)
            else:
                results = bench.measure(options.only)
                verdicts = goals.judge(results, more.name if more else None)
                repeated = _repeat_missed(bench, verdicts) if options.check else {}
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        strays = bench.world.strays()
    again = goals.judge(repeated, more.name if more else None)
    content = {
        "format": 2,
        "kind": _kind(options),
        "started": started,
        "options": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "pin": options.pin,
            "calm": options.calm,
            "workers": options.workers,
            "congestion": options.congestion or _machines_congestion(),
        },
        "machine": bench.facts,
        "versions": {row.name: row.version() for row in how.contestants if row.name not in bench.absent},
        "not_measured": bench.absent,
        "strays": strays,
        "workloads": report.as_json(results),
        "syscalls": counts,
        "profile": {name: {who: asdict(spent) for who, spent in row.items()} for name, row in profile.items()},
        "goals": [asdict(verdict) for verdict in verdicts],
        "repeated": {"workloads": report.as_json(repeated), "goals": [asdict(verdict) for verdict in again]},
    }
    if not options.brief:
        _say(results, counts, profile, content)
    missed = _missed(verdicts, again)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{started}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    for page in options.markdown:
        markdown.refresh(page, content)
        print(f"tables written into {page}")
    print(f"\nresults: {path}")
    return 1 if options.check and missed else 0


def _repeat_missed(bench: Bench, verdicts: list[Verdict]) -> dict[Workload, Samples]:
    missed = {verdict.workload for verdict in verdicts if verdict.is_gate and verdict.state is State.MISSED}
    if missed:
        print(f"\nrepeating alone: {', '.join(sorted(missed))}", flush=True)
    return bench.measure([workload for workload in WORKLOADS if workload.name in missed])


def _missed(first: list[Verdict], again: list[Verdict]) -> bool:
    """Whether some gate is missed for good, or could not be judged, or nothing was."""
    gates = [verdict for verdict in goals.better(first, again) if verdict.is_gate]
    return not gates or any(gate.state in (State.MISSED, State.UNKNOWN) for gate in gates)


def _machines_congestion() -> str:
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def _kind(options: argparse.Namespace) -> str:
    if options.syscalls or options.profile:
        return "syscalls" if options.syscalls else "profile"
    if FAST_PATH in options.contestants:
        return "fast-path"
    return "workers" if options.workers > 1 else "peers"


def _say(results: dict[Workload, Samples], counts: syscalls.Counts, profile: hotspots.Profile, content: dict) -> None:
    parts = [
        report.text(results) if results else "",
        syscalls.text(counts) if counts else "",
        hotspots.profile_table(profile) if profile else "",
    ]
    print("\n" + "\n\n".join(filter(None, parts)))
    print(f"\nStrays: {content['strays']} packets tried to leave the namespaces.")
    print("".join(f"\nNOT MEASURED: {name}: {reason}" for name, reason in content["not_measured"].items()))
    if results:
        print(
            "Goals. Gates: CPU per unit, memory and loss, each with a tolerance of 10 %; the rest is for information.\n"
        )
        print(
            markdown.goals_table(content)
            or f"not judged: {goals.SUBJECT} or the workloads with a goal were not measured"
        )


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
    parser.add_argument(
        "--congestion", metavar="NAME", help="congestion control of all senders, such as cubic; default: the machine's"
    )
    parser.add_argument("--only", type=_pick(WORKLOADS), default=list(WORKLOADS), metavar="WORKLOAD[,…]")
    parser.add_argument(
        "--contestants",
        type=_pick((*CONTESTANTS, FAST_PATH, FAST_PATH_V2, GUARDED, *LOOPS)),
        default=list(CONTESTANTS),
        metavar="NAME[,…]",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="measure causeway with N workers too")
    parser.add_argument("--syscalls", action="store_true", help="count system calls for a unit of work instead")
    parser.add_argument("--profile", action="store_true", help="sample where the proxies spend their CPU instead")
    parser.add_argument("--pin", action="store_true", help="proxies on CPU 0, load on CPU 1")
    parser.add_argument("--calm", action="store_true", help="repeat runs that other work disturbed")
    parser.add_argument("--quick", action="store_true", help="one round of half a second: does it work at all")
    parser.add_argument("--check", action="store_true", help="end with 1 when a gate fails twice")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIRECTORY")
    parser.add_argument("--brief", action="store_true", help="print no tables, only progress and where the results are")
    parser.add_argument("--markdown", type=Path, action="append", default=[], metavar="FILE", help="refresh its tables")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    if not (1 <= options.rounds <= 100 and 0.1 <= options.seconds <= 60):
        parser.error("--rounds 1 to 100, --seconds 0.1 to 60")
    if options.syscalls and options.profile:
        parser.error("--syscalls and --profile: one at a time")
    if not 1 <= options.workers <= 64:
        parser.error("--workers 1 to 64")
    if options.workers > 1 and goals.SUBJECT not in {row.name for row in options.contestants}:
        parser.error(f"--workers compares with {goals.SUBJECT}, which is not among the contestants")
    is_partial = len(options.only) < len(WORKLOADS) or not set(CONTESTANTS) <= set(options.contestants)
    if options.markdown and is_partial and _kind(options) == "peers":
        parser.error("--markdown would lose rows: it needs every workload and every contestant")
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
    except NotAllowed as reason:
        print(f"bench: cannot measure: {reason}", file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        sys.exit(130)
