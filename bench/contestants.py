"""Who is measured: a table, and how each is started on its own address in the proxy's namespace, and stopped.

A new peer is a row and a configuration file in peers/. Knows nothing of workloads.
"""

import re
import resource
import string
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import machine
from workloads import ECHO, SINK, SOURCE, UDP_ECHO
from world import World, inside

HERE = Path(__file__).resolve().parent
ENVOY = HERE.parent / ".tools" / "envoy"
STOP_S = 8
PROVISION_S = 60


class Unavailable(Exception):
    """This contestant cannot run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contestant lives: an address to the client, an origin address and a directory of its own."""

    namespace: str
    listen: str
    origin: str
    directory: Path
    pin: tuple[str, ...]


@dataclass(slots=True)
class Running:
    contestant: "Contestant"
    place: Place
    process: subprocess.Popen[bytes] | None

    @property
    def target(self) -> str:
        return self.place.listen if self.process else self.place.origin

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def check_alive(self) -> None:
        if self.process and self.process.poll() is not None:
            log = _tail(self.place.directory / "log")
            raise Unavailable(f"{self.contestant.name} ended with {self.process.returncode}: {log}")

    def stop(self) -> None:
        if self.process:
            _end(self.process)

    def restart(self) -> None:
        self.stop()
        self.process = self.contestant.start(self.place)


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    start: Callable[[Place], subprocess.Popen[bytes] | None]
    version: Callable[[], str]
    carries_udp: bool = True
    is_peer: bool = True
    splices: bool = False  # bytes do not pass through user space

    def run(self, world: World, place: int, directory: Path, pin: tuple[str, ...]) -> Running:
        directory.mkdir()
        at = Place(world.proxy, world.listen_address(place), world.origin_address(place), directory, pin)
        return Running(self, at, self.start(at))


def _spawn(place: Place, command: list[str], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    with (place.directory / "log").open("ab") as log:
        return subprocess.Popen(
            [*inside(place.namespace), *place.pin, *command],
            stdin=stdin,
            stdout=log,
            stderr=log,
            cwd=place.directory,
            start_new_session=True,  # Ctrl-C is for the bench, which then stops them in order
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _configured(name: str, place: Place) -> Path:
    template = string.Template((HERE / "peers" / name).read_text())
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    config = place.directory / name
    filled = {"listen": place.listen, "origin": place.origin, "directory": place.directory}
    config.write_text(template.safe_substitute(filled, descriptors=descriptors))
    return config


def _program(name: str) -> str:
    if found := which(name, path="/usr/sbin:/usr/bin:/sbin:/bin"):
        return found
    raise Unavailable(f"{name} is not installed; run: apt-get install {name}")


def _no_process(place: Place) -> None:
    return None


def _haproxy(config: str) -> Callable[[Place], subprocess.Popen[bytes]]:
    return lambda place: _spawn(place, [_program("haproxy"), "-db", "-q", "-f", str(_configured(config, place))])


def _nginx(place: Place) -> subprocess.Popen[bytes]:
    if not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        raise Unavailable("nginx has no stream module; run: apt-get install libnginx-mod-stream")
    config = _configured("nginx.cfg", place)
    return _spawn(place, [_program("nginx"), "-p", str(place.directory), "-e", "stderr", "-c", str(config)])


def _envoy_program() -> str:
    # Not the script of that name: it would be one more process in the tree that is measured.
    if found := next(ENVOY.glob("lib/python*/site-packages/envoy/_bin/envoy"), None):
        return str(found)
    raise Unavailable("envoy is not installed; run: make bench-deps")


def _envoy(place: Place) -> subprocess.Popen[bytes]:
    config = _configured("envoy.yaml", place)
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return _spawn(place, [_envoy_program(), "-c", str(config), *options])


def _causeway(
    place: Place, workers: int = 1, carrier: str = "engine", header: str = "off", guard: str = "off"
) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).parent / "causeway"
    if not program.exists():
        raise Unavailable(f"{program} does not exist; run: make setup")
    data = place.directory / f"data-{time.monotonic_ns()}"
    # Several share the namespace, and with it 127.0.0.1.
    api = f"127.0.0.1:{8786 + workers + (100 if carrier == 'kernel' else 0) + (100 if header != 'off' else 0)}"
    options = ["--data-dir", str(data), "--api", api, "--edge-ip", place.listen, "--workers", str(workers)]
    options += ["--fast-path", "on" if carrier == "kernel" else "off"]
    options += ["--guard", guard]
    process = _spawn(place, [str(program), "up", *options])
    words = [f"http://{api}", str(data / "token"), place.origin, carrier, header]
    provision = [sys.executable, str(HERE / "provision.py"), *words]
    try:
        done = subprocess.run(
            [*inside(place.namespace), *provision], capture_output=True, text=True, timeout=PROVISION_S
        )
        reason = done.stderr.strip()[-500:] if done.returncode else None
    except subprocess.TimeoutExpired:
        reason = f"its applications were not made within {PROVISION_S} s"
    if reason:
        _end(process)
        raise Unavailable(f"causeway did not come up: {reason} | {_tail(place.directory / 'log')}")
    return process


def _loop(place: Place, kind: str) -> subprocess.Popen[bytes]:
    ports = [str(ECHO), str(SINK), str(SOURCE), f"{UDP_ECHO}/udp"]
    return _spawn(
        place, [str(machine.build("causeway-loops")), kind, place.listen, place.origin, *ports], subprocess.PIPE
    )


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    # Three parts: a path with python3.11 in it is no version.
    found = re.search(r"\d+\.\d+\.\d+[\w.+~-]*", done.stdout + done.stderr)
    return found.group() if found else "unknown"


def _causeway_version() -> str:
    return _said(str(Path(sys.executable).parent / "causeway"), "--version")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return " / ".join(lines[-3:])


CONTESTANTS = (
    Contestant("direct", _no_process, lambda: "routed through the proxy's namespace", is_peer=False),
    Contestant("haproxy", _haproxy("haproxy.cfg"), lambda: _said("/usr/sbin/haproxy", "-v"), carries_udp=False),
    Contestant(
        "haproxy-splice",
        _haproxy("haproxy-splice.cfg"),
        lambda: _said("/usr/sbin/haproxy", "-v"),
        carries_udp=False,
        splices=True,
    ),
    Contestant("nginx", _nginx, lambda: _said("/usr/sbin/nginx", "-v")),
    Contestant("envoy", _envoy, lambda: _said(_envoy_program(), "--version")),
    Contestant("causeway", _causeway, _causeway_version, is_peer=False),
)

# Flows that never leave the kernel: asked for by name, with goals of its own.
FAST_PATH = Contestant(
    "fast-path", lambda place: _causeway(place, carrier="kernel"), _causeway_version, is_peer=False, splices=True
)

FAST_PATH_V2 = Contestant(
    "fast-path-v2",
    lambda place: _causeway(place, carrier="kernel", header="v2"),
    _causeway_version,
    is_peer=False,
    splices=True,
    carries_udp=False,
)

# What the guard costs: run it beside nobody, since the guard stands before everybody's packets.
GUARDED = Contestant(
    "fast-path-guarded",
    lambda place: _causeway(place, carrier="kernel", guard="on"),
    _causeway_version,
    is_peer=False,
    splices=True,
)

# The least that a relay can be, over each kind of loop: asked for by name, never in a run of everybody.
LOOPS = tuple(
    Contestant(f"loop-{kind}", lambda place, kind=kind: _loop(place, kind), lambda: "bench/loops", is_peer=False)
    for kind in ("tokio", "epoll", "uring", "splice")
)


def with_workers(count: int) -> Contestant:
    """Return causeway with so many workers, to be measured beside that with one."""
    return Contestant(f"causeway-{count}w", lambda place: _causeway(place, count), _causeway_version, is_peer=False)
