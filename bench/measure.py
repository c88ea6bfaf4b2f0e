"""What a process tree has used and holds, and what the machine did, from /proc."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STILL_BYTES = 64 << 10
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    parent: int
    cpu_s: float
    rss_bytes: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    children_ticks = sum(int(field) for field in fields[13:15])  # user + system of those that were waited for
    return _Stat(pid, int(fields[1]), _own_cpu_s(pid) + children_ticks * TICK_S, int(fields[21]) * PAGE_BYTES)


def _own_cpu_s(pid: int) -> float:
    """Of all its threads, those that have ended too, by its clock: finer than ticks (clock_getcpuclockid(3))."""
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError:  # it has ended meanwhile
        return 0.0


def _tree(root: int) -> list[_Stat]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    stats = {stat.pid: stat for pid in pids if (stat := _stat(pid))}
    found, fresh = [], [root]
    while fresh:
        found += [stats[pid] for pid in fresh if pid in stats]
        fresh = [stat.pid for stat in stats.values() if stat.parent in fresh]
    return found


def tree_pids(root: int) -> list[int]:
    return [stat.pid for stat in _tree(root)]


def cpu_s(root: int) -> float:
    return sum(stat.cpu_s for stat in _tree(root))


def settled_rss_bytes(root: int) -> int:
    """Resident memory of the tree, once it has stood still for half a second (or for five has not)."""
    seen: list[int] = []
    for _ in range(50):
        seen.append(sum(stat.rss_bytes for stat in _tree(root)))
        if len(seen) > 5 and max(seen[-6:]) - min(seen[-6:]) <= STILL_BYTES:
            break
        time.sleep(0.1)
    return seen[-1]


def machine_busy_s() -> float:
    """CPU seconds of the whole machine that were not idle; on a virtual machine, stolen time too."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) * TICK_S for field in fields)
    return user + nice + system + irq + softirq + steal
