"""Ask the WAN of a lab that runs: one line there, one line back."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import msgspec

from causeway.lab.problem import LabError

SOCKET = "wan.sock"
_PATIENCE_S = 10.0
_MOST_BYTES = 128 << 20


class Late(msgspec.Struct):
    """How many frames were handed over how long after their time."""

    under_50_us: int
    under_100_us: int
    under_300_us: int
    under_1_ms: int
    more: int
    worst_us: int


class LinkStatus(msgspec.Struct, rename={"source": "from", "target": "to"}):
    """One direction, in the units of the relay."""

    source: str
    target: str
    shape: dict[str, float | bool]
    counts: dict[str, int]


class WanStatus(msgspec.Struct):
    is_realtime: bool
    held_bytes: int
    late: Late
    outside: dict[str, int]
    down: list[str]
    links: list[LinkStatus]


class _Answer(msgspec.Struct):
    ok: bool
    status: WanStatus | None = None
    code: str = "lab_wan"
    message: str = "no reason was given"


def ask(folder: Path, command: dict[str, Any]) -> WanStatus | None:
    """Let the WAN do something.

    Raises:
        LabError: it refused, or there is none.
    """
    answer = msgspec.json.decode(_exchange(folder, msgspec.json.encode(command) + b"\n"), type=_Answer)
    if not answer.ok:
        raise LabError(answer.code, answer.message)
    return answer.status


def _exchange(folder: Path, line: bytes) -> bytes:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
                end.settimeout(_PATIENCE_S)
                end.connect(f"/proc/self/fd/{handle}/{SOCKET}")  # a path may be longer than a socket's may be
                end.sendall(line)
                return _read_line(end)
        finally:
            os.close(handle)
    except OSError as error:
        raise LabError("lab_not_up", f"{folder}: no WAN answers there ({error.strerror or error})") from error


def _read_line(end: socket.socket) -> bytes:
    heard = bytearray()
    while not heard.endswith(b"\n"):
        more = end.recv(1 << 16)
        if not more or len(heard) > _MOST_BYTES:
            raise LabError("lab_not_up", "the WAN ended in the middle of an answer")
        heard += more
    return bytes(heard)
