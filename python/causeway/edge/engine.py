"""The compiled engine in this process: started on its own, or in place of another process's.

Its sign of life goes straight from its threads to the supervisor, so that a busy interpreter is not taken for a
dead data plane.
"""

from __future__ import annotations

import socket
from typing import Protocol

import msgspec

from causeway.edge.agent import Engine, EngineFailed
from causeway.edge.named import named_thread
from causeway.native import Edge, NativeError, die_with
from causeway.settings import Settings

__all__ = ["die_with", "pulse", "start_engine", "take_over"]

HAND_OVER_S = 10.0  # either side gives up after this; it takes milliseconds


class _Descriptor(Protocol):
    def fileno(self) -> int: ...


def start_engine(settings: Settings, identity: bytes | None = None, *, distrusts_last: bool = False) -> Engine:
    """Start the engine, which serves its last good snapshot at once. `identity`: what it is to others.
    `distrusts_last`: the one before the last, as processes have died of that.

    Raises:
        EngineFailed: threads, descriptors or a dispatch that is a must could not be had.
    """
    try:
        return Edge.start(_config(settings, identity, distrusts_last))
    except NativeError as error:
        raise EngineFailed(f"the edge could not start ({error.code}): {error.message}") from error


def take_over(settings: Settings, link: socket.socket, identity: bytes | None = None) -> Engine:
    """Start the engine with everything that the process at the other end of `link` has.

    Raises:
        EngineFailed: nothing was taken; the other process serves on.
    """
    try:
        return Edge.take_over(_config(settings, identity), link.fileno(), int(HAND_OVER_S * 1000))
    except NativeError as error:
        raise EngineFailed(f"the edge could not take over ({error.code}): {error.message}") from error


def pulse(engine: Engine, line: _Descriptor) -> None:
    """Have the engine tell the supervisor that it lives, for as long as it does."""
    beat = line.fileno()
    named_thread("edge-pulse", lambda: engine.pulse(beat)).start()


def _config(settings: Settings, identity: bytes | None, distrusts_last: bool = False) -> bytes:
    state_dir = str(settings.data_dir / "edge")
    modes = {
        "dispatch": settings.dispatch,
        "fast_path": settings.fast_path,
        "fast_path_flows": settings.fast_path_flows,
        "guard": settings.guard,
    }
    others: dict[str, object] = {"distrusts_last": distrusts_last}
    if identity:
        others["identity"] = msgspec.Raw(identity)
    return msgspec.json.encode({"workers": settings.workers, "state_dir": state_dir, **modes, **others})
