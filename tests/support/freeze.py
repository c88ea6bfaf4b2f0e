"""Stop one thread of another process, and only that: what a worker that hangs looks like from outside."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PTRACE_DETACH, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 17, 0x4206, 0x4207
_WALL = 0x40000000  # of waitpid: also for threads
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def threads(pid: int, name: str) -> list[int]:
    """The threads with this name of a process and of those that it has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(task.name)] if (task / "comm").read_text().strip() == name else []
        for child in (task / "children").read_text().split():
            found += threads(int(child), name)
    return sorted(found)


@contextmanager
def frozen(thread: int) -> Iterator[None]:
    """Hold a thread still; skips the test where this is not permitted (CAP_SYS_PTRACE)."""
    if _libc.ptrace(_PTRACE_SEIZE, thread, None, None):
        pytest.skip(f"a thread cannot be stopped here: ptrace: {os.strerror(ctypes.get_errno())}")
    try:
        _libc.ptrace(_PTRACE_INTERRUPT, thread, None, None)
        _, status = os.waitpid(thread, _WALL)
        assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP
        yield
    finally:
        _libc.ptrace(_PTRACE_DETACH, thread, None, None)
