"""Threads whose names the kernel knows, so that `top -H` and `perf` tell them apart.

The interpreter does so from 3.14 on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_MOST = 15  # characters: TASK_COMM_LEN without its end


def named_thread(name: str, act: Callable[[], None]) -> threading.Thread:
    """Make a thread that does `act` and does not keep the process from ending."""

    def run() -> None:
        with suppress(OSError):
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name[:_MOST])
        act()

    return threading.Thread(target=run, name=name, daemon=True)
