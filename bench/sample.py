"""One measurement: one workload, one contestant, one run of the load client.

Also the gate that each contestant must pass first.
"""

import json
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import measure
from contestants import Running, Unavailable
from workloads import ECHO, SINK, SOURCE, UDP_ECHO, Workload
from world import World, inside

GATE_BYTES = 16 << 20
SETTLE_S = 0.05
START_S = 5
CALM_CPUS = 0.3  # a run with more work of others than this counts as disturbed
EXTRA_S = 90  # the load client ends by itself long before


@dataclass(frozen=True, slots=True)
class Sample:
    value: float
    cost: float | None  # CPU of the proxy for a piece of work
    p99_us: float | None
    errors: int
    wrong: int
    lost: int
    stuck: int
    trouble: str | None
    proxy_cpus: float | None
    client_cpus: float
    origin_cpus: float
    others_cpus: float  # busy time that belongs to no process of ours: other work, kernel threads, stolen time


@dataclass(frozen=True, slots=True)
class Load:
    """The load client and its origin, and how long a run is."""

    program: Path
    world: World
    origin: subprocess.Popen[bytes]
    seconds: float
    warmup: float
    pin: tuple[str, ...]

    def words(self, *options: str) -> list[str]:
        return [*inside(self.world.client), *self.pin, str(self.program), *options]

    def result(self, *options: str) -> dict:
        done = subprocess.run(self.words(*options), capture_output=True, text=True, timeout=self.seconds + EXTRA_S)
        if done.returncode != 0:
            return {"errors": 1, "first_error": done.stderr.strip()[-300:] or f"status {done.returncode}"}
        return json.loads(done.stdout.splitlines()[-1])

    def timed(self, target: str, workload: Workload) -> dict:
        to = f"{target}:{workload.port}"
        length = ("--seconds", str(self.seconds), "--warmup", str(self.warmup))
        return self.result(*workload.load, "--to", to, *length)


def wait_until_carrying(load: Load, running: Running) -> None:
    """Until one connection goes through: no more, for the process whose memory is measured must be fresh."""
    deadline = time.monotonic() + START_S
    while True:
        running.check_alive()
        result = load.result("short", "--to", f"{running.target}:{ECHO}", "--parallel", "1", "--seconds", "0.02")
        if not result["errors"]:
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"{running.contestant.name} carries nothing after {START_S} s: {result['first_error']}")
        time.sleep(0.05)


def gate(load: Load, running: Running) -> None:
    """Every byte of 16 MiB on three streams each way with half-close, and a moment of UDP, or be left out."""
    checks = [
        (SINK, ("bulk", "--direction", "up", "--streams", "3", "--bytes", str(GATE_BYTES))),
        (SOURCE, ("bulk", "--direction", "down", "--streams", "3", "--bytes", str(GATE_BYTES))),
    ]
    if running.contestant.carries_udp:
        checks.append((UDP_ECHO, ("udp", "--flows", "4", "--in-flight", "4", "--seconds", "0.2")))
    for port, words in checks:
        result = load.result(*words, "--to", f"{running.target}:{port}")
        is_right = result.get("units") and not (result["errors"] or result["wrong"] or result["stuck"])
        if not is_right:
            raise Unavailable(f"{running.contestant.name} failed the gate, {' '.join(words)}: {json.dumps(result)}")


def take(load: Load, running: Running, workload: Workload) -> Sample:
    if workload.is_memory:
        running.restart()
        wait_until_carrying(load, running)
    time.sleep(SETTLE_S)
    before = _usage(load, running)
    if workload.is_memory:
        result, value = _memory(load, running, workload)
    else:
        result = load.timed(running.target, workload)
        value = (result.get(workload.figure) or 0) / workload.per_figure
    after = _usage(load, running)
    running.check_alive()
    wall, proxy, client, origin, busy = (b - a for a, b in zip(before, after, strict=True))
    pieces = result.get("units", 0) / workload.cost_of
    has_cost = running.pid is not None and workload.cost_unit and pieces
    return Sample(
        value=value,
        cost=proxy * workload.cost_scale / pieces if has_cost else None,
        p99_us=result.get("p99_us"),
        errors=result["errors"],
        wrong=result.get("wrong", 0),
        lost=result.get("lost", 0),
        stuck=result.get("stuck", 0),
        trouble=result.get("first_error"),
        proxy_cpus=proxy / wall if running.pid else None,
        client_cpus=client / wall,
        origin_cpus=origin / wall,
        others_cpus=max(0.0, (busy - proxy - client - origin) / wall),
    )


def _usage(load: Load, running: Running) -> tuple[float, ...]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        time.monotonic(),
        measure.cpu_s(running.pid) if running.pid else 0.0,
        children.ru_utime + children.ru_stime,
        measure.cpu_s(load.origin.pid),
        measure.machine_busy_s(),
    )


def _memory(load: Load, running: Running, workload: Workload) -> tuple[dict, float]:
    """What each held connection adds to the proxy, with all of them proven before and after."""
    assert running.pid is not None
    empty = measure.settled_rss_bytes(running.pid)
    words = load.words(*workload.load, "--to", f"{running.target}:{workload.port}", "--seconds", "60")
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as client:
        assert client.stdin and client.stdout and client.stderr
        try:
            held = json.loads(client.stdout.readline() or "{}").get("held", 0)
            full = measure.settled_rss_bytes(running.pid)
            out, err = client.communicate("\n", timeout=EXTRA_S)
        finally:
            client.kill()
    if client.returncode != 0 or not held:
        return {"errors": 1, "first_error": err.strip()[-300:] or f"status {client.returncode}"}, 0.0
    return json.loads(out.splitlines()[-1]), (full - empty) / held
