"""Stop the causeway of a data directory, and what it left in the kernel: `causeway down` becomes this program."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from causeway import native

_UCRED = struct.Struct("3i")
_LOOK_S = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the exit status: 0 done, 1 not, 3 if there was nothing to stop and nothing was to be flushed."""
    parser = argparse.ArgumentParser(prog="causeway down", description="Stop the causeway of a data directory.")
    parser.add_argument("--data-dir", type=Path, default=Path("causeway-data"))
    parser.add_argument("--flush", action="store_true")
    read = parser.parse_args(arguments)
    data_dir = read.data_dir.absolute()
    pid = _supervisor(data_dir)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        while _is_locked(data_dir):
            time.sleep(_LOOK_S)
        print(f"stopped  process {pid}")
    elif not read.flush:
        print(f"error not_running (operator): {data_dir}: no causeway runs there", file=sys.stderr)
        return 3
    if not read.flush:
        if native.is_left(str(data_dir / "edge")):
            print("kernel   goes on carrying its flows, new ones too; causeway down --flush ends that")
        return 0
    try:
        count = native.flush(str(data_dir / "edge"))
    except OSError as error:
        why = error.strerror or str(error)
        print(
            f"error flush_failed (operator): {why}\n  next   run it as root (CAP_BPF, CAP_NET_ADMIN)", file=sys.stderr
        )
        return 1
    print(f"flushed  {count} pinned objects of the kernel" if count else "flushed  nothing was left in the kernel")
    return 0


def _supervisor(data_dir: Path) -> int | None:
    """The process that listens at the door of the data directory."""
    if not _is_locked(data_dir):
        return None
    handle = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.connect(f"/proc/self/fd/{handle}/control.sock")
            told = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            pid: int = _UCRED.unpack(told)[0]
            return pid
    except OSError:
        return None
    finally:
        os.close(handle)


def _is_locked(data_dir: Path) -> bool:
    """Whether a causeway runs there: it holds the lock until it ends."""
    try:
        with (data_dir / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
