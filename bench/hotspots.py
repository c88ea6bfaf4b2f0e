"""Where a proxy spends its CPU under a workload, sampled by perf: our code or the kernel, and in which call.

Sampled by the clock, for a virtual machine often has no cycle counter: a sample that falls where interrupts are off is
counted where they come back on. A call's share includes what runs below it, so shares overlap.
"""

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import measure
import report
from contestants import Running, Unavailable
from sample import Load
from workloads import WORKLOADS

SECONDS = 4.0
NAMES = ("tcp-crr", "tcp-rr-16", "bulk-up-4", "udp-8x32")
HERTZ = "997"
CALL = re.compile(r"(?:__(?:x64_|arm64_|do_|se_)?sys_|do_(?=writev|readv|epoll_wait))(\w+)$")
NETWORK = "net_rx_action"  # the kernel delivering packets, in the time of whoever sent them
LEAST_SHOWN = 0.5


@dataclass(frozen=True, slots=True)
class Spent:
    """Shares in percent of the samples of one contestant under one workload."""

    kernel: float
    delivering: float
    calls: dict[str, float]
    own: dict[str, float]


Profile = dict[str, dict[str, Spent]]  # by workload and contestant


def cannot_sample() -> str | None:
    if shutil.which("perf") is None:
        return "perf is not installed; run: apt-get install linux-perf"
    return None if os.geteuid() == 0 else "perf of the kernel needs root"


def sample_all(load: Load, running: list[Running]) -> Profile:
    longer = replace(load, seconds=SECONDS)
    found: Profile = {}
    for workload in (workload for workload in WORKLOADS if workload.name in NAMES):
        proxies = [one for one in running if one.pid and (one.contestant.carries_udp or not workload.is_udp)]
        found[workload.name] = {}
        for one in proxies:
            under = threading.Thread(target=longer.timed, args=(one.target, workload))
            under.start()
            found[workload.name][one.contestant.name] = _sample(one)
            under.join()
        said = (f"{name} {spent.kernel:.0f} %" for name, spent in found[workload.name].items())
        print(f"in the kernel, {workload.name}: {', '.join(said)}", flush=True)
    return found


def profile_table(profile: Profile) -> str:
    rows = [
        [name, contestant, f"{spent.kernel:.0f} %", f"{spent.delivering:.0f} %", _said(spent.calls), _said(spent.own)]
        for name, contestants in profile.items()
        for contestant, spent in contestants.items()
    ]
    head = ["workload", "contestant", "kernel", "of it delivering", "calls, with all below them", "most in themselves"]
    return report.table(head, rows)


def _said(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0f}" for name, share in shares.items())


def _sample(running: Running) -> Spent:
    assert running.pid
    pids = ",".join(map(str, measure.tree_pids(running.pid)))
    time.sleep(SECONDS / 8)
    with tempfile.TemporaryDirectory(prefix="causeway-perf-") as directory:
        data = str(Path(directory) / "data")
        # Of the kernel only: libc's, without frame pointers, are garbage that makes perf drop the whole chain.
        words = ["perf", "record", "-q", "-e", "cpu-clock", "-F", HERTZ, "-g", "--kernel-callchains", "-o", data]
        done = subprocess.run([*words, "-p", pids, "--", "sleep", str(SECONDS / 2)], capture_output=True, text=True)
        if done.returncode != 0:
            raise Unavailable(f"perf record: {done.stderr.strip()[-300:]}")
        report_words = ["perf", "report", "-i", data, "--stdio", "-g", "none", "-t", "\t", "-F"]
        below = _rows([*report_words, "overhead_children,symbol", "--children", "--sort", "symbol"])
        own = _rows([*report_words, "overhead,symbol", "--no-children", "--sort", "symbol"])
    calls: dict[str, float] = {}
    for symbol, share in below:
        if found := CALL.search(symbol):
            calls.setdefault(found[1], share)  # the largest first: a call has several functions at its entry
    kernel = sum(share for symbol, share in own if symbol.startswith("[k]"))
    delivering = max((share for symbol, share in below if symbol.endswith(NETWORK)), default=0.0)
    return Spent(
        kernel,
        delivering,
        {name: share for name, share in list(calls.items())[:7] if share >= LEAST_SHOWN},
        {symbol.partition("] ")[2]: share for symbol, share in own[:6]},
    )


def _rows(words: list[str]) -> list[tuple[str, float]]:
    """Symbols and their percentages, largest first."""
    done = subprocess.run(words, capture_output=True, text=True)
    lines = (line.split("\t") for line in done.stdout.splitlines() if line and not line.startswith("#"))
    rows = [(cells[1].strip(), float(cells[0].strip().rstrip("%"))) for cells in lines if len(cells) >= 2]
    return sorted(rows, key=lambda row: -row[1])
