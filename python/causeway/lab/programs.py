"""The programs of a lab: started in a namespace, on record by pid and time of birth, and ended by that."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from causeway.lab import namespaces
from causeway.lab.problem import LabError

_ASK_AGAIN_S, _END_S, _KILLED_S, _LOOK_S = 1.5, 6.0, 5.0, 0.02
_SHOWN_BYTES, _SHOWN_LINES = 2_000, 3


class Program(msgspec.Struct, frozen=True):
    """A started program; a pid alone may be somebody else's by now."""

    node: str
    namespace: str
    command: tuple[str, ...]
    pid: int
    born: int
    log: str
    after: tuple[str, ...] = ()
    """What is to be run when it has ended."""

    @property
    def is_alive(self) -> bool:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # of ours, take the record of its end away
        return _birth(self.pid) == self.born

    def last_words(self) -> str:
        """The end of what it said, on one line."""
        try:
            said = Path(self.log).read_bytes()[-_SHOWN_BYTES:].decode(errors="replace")
        except OSError:
            said = ""
        return (
            " / ".join([line.strip() for line in said.splitlines() if line.strip()][-_SHOWN_LINES:])
            or "it said nothing"
        )


def start(
    node: str, namespace: str, command: Sequence[str], folder: Path, log: Path, after: Sequence[str] = ()
) -> Program:
    """Start a program in a namespace, in a session of its own."""
    # nsenter becomes the program, so that the pid stays.
    words = ["nsenter", f"--net={namespaces.path(namespace)}", f"--wd={folder}", "--", *command]
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        pid = os.posix_spawn(_nsenter(), words, environment(node), file_actions=files, setsid=True)
    except OSError as error:
        raise LabError("lab_program", f"{command[0]} in {node} cannot be started: {error.strerror}") from error
    return Program(node, namespace, tuple(command), pid, _birth(pid), str(log), tuple(after))


def _nsenter() -> str:
    return shutil.which("nsenter", path=namespaces.PATH) or "/usr/bin/nsenter"


def environment(node: str) -> Mapping[str, str]:
    """Ours, without what would steer every causeway of the lab alike, and no proxies: there is nobody outside."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CAUSEWAY_") and not name.lower().endswith("_proxy")
    }
    ours = str(Path(sys.executable).parent)  # so that `causeway` is this one
    return kept | {"PATH": f"{ours}:{namespaces.PATH}", "CAUSEWAY_LAB_NODE": node}


def end(programs: Sequence[Program]) -> None:
    """Ask all to end, then again, then make them; with what they started."""
    running = [program for program in programs if program.is_alive]
    began_s = time.monotonic()
    _signal(running, signal.SIGTERM)
    is_asked_again = False
    while running and time.monotonic() < began_s + _END_S:
        if not is_asked_again and time.monotonic() > began_s + _ASK_AGAIN_S:
            _signal(running, signal.SIGTERM)  # causeway drains no longer when asked again
            is_asked_again = True
        time.sleep(_LOOK_S)
        running = [program for program in running if program.is_alive]
    _signal(running, signal.SIGKILL)
    left = [pid for program in programs for pid in _offspring(program)]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end_s = time.monotonic() + _KILLED_S
    while (any(map(_birth, left)) or any(program.is_alive for program in programs)) and time.monotonic() < end_s:
        time.sleep(_LOOK_S)


def _signal(programs: Iterable[Program], number: signal.Signals) -> None:
    for program in programs:
        if program.is_alive:
            with suppress(ProcessLookupError):
                os.kill(program.pid, number)


def _offspring(program: Program) -> list[int]:
    """Who is in its namespace and of its session. Such a number is nobody else's as long as one of them lives."""
    return [pid for pid in namespaces.pids(program.namespace) if (_stat(pid) or {}).get("session") == program.pid]


def _birth(pid: int) -> int:
    """When a process was started, in ticks; 0 if it has ended."""
    stat = _stat(pid)
    return stat["born"] if stat else 0


def _stat(pid: int) -> dict[str, int] | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else {"session": int(fields[3]), "born": int(fields[19])}
