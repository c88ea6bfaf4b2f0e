"""How many system calls each proxy makes for a unit of work, counted by strace, which slows it a great deal.

Every thread of the process tree is counted, a control plane's too. Batches are as large as the slowed proxy finds them,
so "one at a time" is the figure that does not depend on the machine.
"""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import figures
import measure
import report
from contestants import Running, Unavailable
from sample import Load
from workloads import ECHO, UDP_ECHO

SECONDS = 1.5
ATTACH_S = 10
ROW = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)
LEAST_SHOWN = 0.005


@dataclass(frozen=True, slots=True)
class Unit:
    name: str
    load: tuple[str, ...]
    port: int = ECHO
    is_udp: bool = False


def _short(close: str, parallel: str) -> tuple[str, ...]:
    return ("short", "--close", close, "--parallel", parallel)


UNITS = (
    Unit("connection, FIN, one at a time", _short("fin", "1")),
    Unit("connection, FIN, 32 at once", _short("fin", "32")),
    Unit("connection, RST, 32 at once", _short("rst", "32")),
    Unit("round trip, one at a time", ("rr", "--connections", "1", "--size", "64")),
    Unit("round trip, 16 connections", ("rr", "--connections", "16", "--size", "64")),
    Unit(
        "datagram and reply, one at a time",
        ("udp", "--flows", "1", "--in-flight", "1", "--size", "200"),
        UDP_ECHO,
        True,
    ),
    Unit(
        "datagram and reply, 8 flows x 32",
        ("udp", "--flows", "8", "--in-flight", "32", "--size", "200"),
        UDP_ECHO,
        True,
    ),
)
Counts = dict[str, dict[str, dict[str, float]]]  # by unit and contestant: calls for one unit, by name


def cannot_count() -> str | None:
    return None if shutil.which("strace") else "strace is not installed; run: apt-get install strace"


def count_all(load: Load, running: list[Running]) -> Counts:
    calm = replace(load, seconds=SECONDS, warmup=0.0)
    counts: Counts = {}
    for unit in UNITS:
        proxies = [one for one in running if one.pid and (one.contestant.carries_udp or not unit.is_udp)]
        counts[unit.name] = {one.contestant.name: _count(calm, one, unit) for one in proxies}
        said = (f"{name} {sum(calls.values()):.1f}" for name, calls in counts[unit.name].items())
        print(f"system calls, {unit.name}: {', '.join(said)}", flush=True)
    return counts


def text(counts: Counts) -> str:
    return f"System calls for one unit of work.\n\n{totals_table(counts)}\n\n{detail_table(counts)}"


def totals_table(counts: Counts) -> str:
    names = figures.in_order({name for row in counts.values() for name in row})
    rows = [
        [unit, *(f"{sum(row[name].values()):.2f}" if name in row else "-" for name in names)]
        for unit, row in counts.items()
    ]
    return report.table(["system calls for one", *names], rows)


def detail_table(counts: Counts, name: str = "causeway") -> str:
    """Return which calls those of one contestant are."""
    rows = []
    for unit, row in counts.items():
        calls = sorted(row.get(name, {}).items(), key=lambda call: -call[1])
        shown = ", ".join(f"{call} {count:.2f}" for call, count in calls if count >= LEAST_SHOWN)
        rows.append([unit, shown or "-"])
    return report.table([f"{name}: for one", "calls"], rows)


def _count(load: Load, running: Running, unit: Unit) -> dict[str, float]:
    assert running.pid
    pids = measure.tree_pids(running.pid)
    with tempfile.TemporaryDirectory(prefix="causeway-strace-") as directory:
        summary = Path(directory) / "summary"
        words = ["strace", "-f", "-c", "-o", str(summary), *(word for pid in pids for word in ("-p", str(pid)))]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as strace:
            try:
                _wait_until_attached(strace, len(pids))
                result = load.result(
                    *unit.load, "--to", f"{running.target}:{unit.port}", "--seconds", str(load.seconds)
                )
            finally:
                strace.terminate()  # it lets go of the proxy and writes its summary
                strace.communicate(timeout=ATTACH_S)
        found = Counter({name: int(calls) for calls, name in ROW.findall(summary.read_text())})
    units = result.get("units", 0)
    if not units or result["errors"]:
        raise Unavailable(
            f"{running.contestant.name} under strace, {unit.name}: {result.get('first_error', 'no units')}"
        )
    del found["total"]
    return {name: calls / units for name, calls in found.items()}


def _wait_until_attached(strace: "subprocess.Popen[str]", processes: int) -> None:
    assert strace.stderr
    for _ in range(processes):
        line = strace.stderr.readline()
        if "attached" not in line:
            raise Unavailable(f"strace: {line.strip() or 'ended at once'}")
