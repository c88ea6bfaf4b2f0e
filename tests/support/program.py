"""Real programs under test: started with a log of their own, ended by pid, shown when a test fails.

A missing program skips the test by name; it never passes in silence.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import pytest

from support.patience import eventually

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
STOP_S = 10.0
SHOWN_BYTES = 4_000


def need(*programs: str) -> None:
    """Skip the test, naming what this machine lacks."""
    missing = [name for name in programs if shutil.which(name, path=PATH) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (scripts/apt tests installs what the tests use)")


def run(*command: str | Path, stdin: bytes = b"", within_s: float = 30, cwd: Path | None = None) -> bytes:
    """Run a client to its end; anything but exit status 0 fails the test with its words."""
    done = subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, timeout=within_s, cwd=cwd, env=environment()
    )
    shown = b" ".join([done.stdout[-SHOWN_BYTES:], done.stderr[-SHOWN_BYTES:]]).decode(errors="replace")
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {shown}"
    return done.stdout


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without what would steer causeway, Cloudflare's SDK or an HTTP client elsewhere."""
    steering = ("CAUSEWAY_", "CLOUDFLARE_", "GIT_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(steering) and not name.lower().endswith("_proxy")
    }
    return kept | {"PATH": PATH, "LC_ALL": "C.UTF-8"} | dict(extra or {})


class Program:
    """One started program and what it said."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, log: Path) -> None:
        self.process, self.name, self.log = process, name, log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = STOP_S) -> int:
        """The exit status; the test fails if the program does not end."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} (pid {self.pid}) did not end within {within_s:g} s: {self.output[-SHOWN_BYTES:]}")

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = STOP_S) -> int:
        if self.is_running:
            self.send(number)
        return self.wait(within_s)

    def end(self) -> None:
        """Take it and its children away, whatever state they are in."""
        children = self.children()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # a session of its own: the group holds nothing else
        self.process.wait()
        for child in children:  # they have groups of their own, and die with their parent; not at once
            eventually(lambda child=child: _is_over(child), STOP_S, every_s=0.005)

    def children(self) -> list[str]:
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return []


def _is_over(pid: str) -> bool:
    """Whether nothing of it runs: whoever it belongs to now may take a second to reap it."""
    process = Path(f"/proc/{pid}")
    try:
        return not (process / "exe").exists() and len(list((process / "task").iterdir())) == 1
    except OSError:
        return True


class Programs:
    """Everything one test or one module started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Program] = []

    def start(
        self,
        *command: str | Path,
        inside: AbstractContextManager[object] | None = None,
        cwd: Path | None = None,
        extra_environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Start a program, in the network namespace `inside` if given."""
        name = Path(command[0]).name
        log = self.folder / f"{name}-{len(self.started)}.log"
        with log.open("wb") as output, inside or nullcontext():
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd or self.folder,
                env=environment(extra_environment),
                start_new_session=True,
            )
        self.started.append(Program(process, name, log))
        return self.started[-1]

    def transcripts(self) -> list[tuple[str, str]]:
        """The end of what each program said, for the report of a failed test."""
        return [
            (f"{p.name} (pid {p.pid}, {'running' if p.is_running else p.process.returncode})", p.output[-SHOWN_BYTES:])
            for p in self.started
        ]

    def end(self) -> None:
        for program in reversed(self.started):
            program.end()
