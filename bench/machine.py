"""The facts a reader needs to judge a number: the machine, the versions, the commit."""

import json
import os
import platform
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def build(package: str) -> Path:
    """Build a program of the workspace and return where it is."""
    cargo = ["cargo", "build", "--release", "--locked", "--quiet", "-p", package]
    subprocess.run(cargo, cwd=REPOSITORY, check=True)
    described = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    return Path(json.loads(described.stdout)["target_directory"]) / "release" / package


def facts() -> dict:
    cpus = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "kernel": platform.release(),
        "cpu": cpus[0] if cpus else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory) * 1024,
        "load_average": os.getloadavg(),
        "is_virtual": any("hypervisor" in line for line in _lines("/proc/cpuinfo")),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "HEAD"),
        "has_local_changes": bool(_git("status", "--porcelain", "--", "crates", "python", "bench")),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, timeout=20)
    except OSError:
        return ""
    return done.stdout.strip()
