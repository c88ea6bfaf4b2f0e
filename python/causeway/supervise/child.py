"""One serving process as its supervisor sees it: started, listened to, watched, ended."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from causeway.supervise.line import BIRTH_VARIABLE, Birth, Line, Word

SILENT_S = 2.0  # beats come every 0.3 s; with the start of another process this keeps within 3 s
_FAULTS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}
BUSY_SILENT_S = 10.0  # of a process that runs: a machine that is overloaded is no reason to lose connections


@dataclass(frozen=True, slots=True)
class Cpu:
    """What a process has used, in ticks, and whether it is stopped."""

    ticks: int
    is_stopped: bool

    @staticmethod
    def of(pid: int) -> Cpu | None:
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return Cpu(int(fields[11]) + int(fields[12]), fields[0] in "Tt")
        return None


class Child:
    """A process that runs `causeway.serve`."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        api: socket.socket,
        parent: int,
        link: socket.socket | None = None,
        is_first: bool = False,
        distrusts_last: bool = False,
    ) -> None:
        self.line, end = Line.pair()
        given = [end.fileno(), api.fileno(), *([link.fileno()] if link else [])]
        birth = Birth(parent, end.fileno(), api.fileno(), link.fileno() if link else None, is_first, distrusts_last)
        with end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "causeway.serve", *arguments],
                env=environment | {BIRTH_VARIABLE: birth.encoded()},
                stdin=subprocess.DEVNULL,
                pass_fds=given,
                process_group=0,  # Ctrl-C is for the supervisor, which tells its children what to do
            )
        self.started_s = time.monotonic()
        self.version = "?"
        self.has_served = False
        self.failure: str | None = None  # why it cannot start, in its own words
        self.deadline_s: float | None = None  # it has to be gone by then
        self._beat_s: float | None = None
        self._cpu: Cpu | None = None
        self._hung = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_beating(self) -> bool:
        return self._beat_s is not None

    def hear(self) -> list[Word] | None:
        """Return what it says; None once it has ended."""
        words = self.line.hear()
        if words is None:
            return None
        if any(not word.name for word in words):
            self._beat_s, self._cpu = time.monotonic(), None
        return words

    def status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def excuse(self, late_s: float) -> None:
        """The supervisor itself could not run for so long: nobody knows what the child did meanwhile."""
        if self._beat_s is not None:
            self._beat_s += late_s

    def hangs(self, now_s: float) -> bool:
        """Whether its engine gave no sign of life for too long."""
        if self._beat_s is None or now_s - self._beat_s < SILENT_S / 2:
            return False
        cpu = Cpu.of(self.pid)
        self._cpu = self._cpu or cpu
        if now_s - self._beat_s < SILENT_S or cpu is None or self._cpu is None:
            return False
        is_busy = not cpu.is_stopped and cpu.ticks > self._cpu.ticks
        return not is_busy or now_s - self._beat_s > BUSY_SILENT_S

    def kill_as_it_hangs(self) -> None:
        self._hung = True
        self.kill()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    @property
    def died_of_itself(self) -> bool:
        """Whether what it served may be why it ended: a fault, or a hang; not somebody's SIGKILL, nor an exit."""
        return self._hung or -(self.status() or 0) in _FAULTS

    def how_it_ended(self) -> str:
        status = self._process.returncode
        if self.failure:
            return self.failure
        if status is not None and status < 0:
            return f"it was ended by signal {-status}"
        return f"it ended with status {status}; its last words are in the log"
