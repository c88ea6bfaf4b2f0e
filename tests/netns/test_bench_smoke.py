"""The bench runs from end to end and says what it found in the shape that later runs are compared by.

Half a second each: the numbers mean nothing here, the counts of wrong and lost replies do.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

REPOSITORY = Path(__file__).resolve().parents[2]
CONTESTANTS = ["direct", "haproxy", "nginx", "causeway"]
NEEDED = {"ip": "iproute2", "nft": "nftables", "haproxy": "haproxy", "nginx": "nginx", "cargo": "a Rust toolchain"}
MEASURED_BY = {
    "tcp-crr": CONTESTANTS,
    "tcp-rr-16": CONTESTANTS,
    "bulk-down-4": CONTESTANTS,
    "udp-8x32": ["direct", "nginx", "causeway"],
    "mem-5000": ["haproxy", "nginx", "causeway"],
}


def _reason_to_skip() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces need root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if missing := [package for program, package in NEEDED.items() if not shutil.which(program, path=path)]:
        return f"not installed: {', '.join(missing)}"
    if not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        return "not installed: libnginx-mod-stream"
    made = subprocess.run(["ip", "netns", "add", f"cwprobe{os.getpid()}"], capture_output=True, text=True)
    if made.returncode != 0:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"cwprobe{os.getpid()}"], check=True)
    return None


def _bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "bench" / "run.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_a_quick_bench_measures_everybody_and_keeps_what_it_found(tmp_path: Path) -> None:
    if reason := _reason_to_skip():
        pytest.skip(reason)
    contestants, workloads = ",".join(CONTESTANTS), ",".join(MEASURED_BY)
    done = _bench("--quick", "--contestants", contestants, "--only", workloads, "--results", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr

    [path] = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert (found["format"], found["kind"]) == (2, "peers")
    assert found["not_measured"] == {}
    assert found["strays"] == 0
    assert set(found["versions"]) == set(CONTESTANTS)
    assert {"kernel", "cpu", "cpus", "memory_bytes", "load_average", "commit"} <= set(found["machine"])
    assert {row["name"]: list(row["contestants"]) for row in found["workloads"]} == MEASURED_BY
    assert {goal["workload"] for goal in found["goals"]} == set(MEASURED_BY)

    for row in found["workloads"]:
        for name, figures in row["contestants"].items():
            where = f"{row['name']} {name}: {figures}"
            assert figures["median"] > 0, where
            [sample] = figures["rounds"]
            assert (sample["errors"], sample["wrong"], sample["stuck"]) == (0, 0, 0), where
            if name == "causeway":
                assert figures["against_best_peer"]["median"] > 0, where
            if name != "direct" and row["cost_unit"]:
                assert figures["cost"] is not None, where


def test_an_unknown_workload_is_refused_with_the_names_that_exist() -> None:
    done = _bench("--only", "tcp-crr,nonsense")
    assert done.returncode == 2
    assert "nonsense: not one of tcp-crr, tcp-crr-rst" in done.stderr


def test_no_process_namespace_or_directory_is_left_behind() -> None:
    if reason := _reason_to_skip():
        pytest.skip(reason)
    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / "bench" / "run.py"), "--quick", "--contestants", "direct,haproxy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as bench:
        assert bench.stdout
        assert "direct: up" in bench.stdout.readline()
        bench.terminate()
        bench.stdout.read()
        assert bench.wait(30) == 143
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"cwb{bench.pid}" not in namespaces
    assert not list(Path("/tmp").glob(f"causeway-bench-{bench.pid}-*"))
