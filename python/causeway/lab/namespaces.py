"""Network namespaces by name, and being inside one.

The names are those of `ip netns`, so that its commands work on a lab, too.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from causeway.lab.problem import LabError

_FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x4000_0000
PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


def path(name: str) -> Path:
    return _FOLDER / name


def check_can() -> None:
    """Tell what this machine or user lacks.

    Raises:
        LabError: a lab cannot be here.
    """
    if os.geteuid():
        raise LabError("lab_not_permitted", "a lab makes network namespaces: run it as root")
    for program in ("ip", "nsenter"):
        if not shutil.which(program, path=PATH):
            raise LabError("lab_tool_missing", f"{program} is not installed: it is in iproute2 and util-linux")
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise LabError("lab_no_tun", f"/dev/net/tun cannot be had ({error.strerror}): modprobe tun") from None


def make(names: Iterable[str]) -> None:
    _ip((), (f"netns add {name}" for name in names))


def remove(names: Iterable[str]) -> None:
    """Take away those that are there."""
    _ip((), (f"netns delete {name}" for name in names if path(name).exists()))


def configure(name: str, lines: Iterable[str]) -> None:
    """Obey commands of `ip` inside."""
    _ip(("-netns", name), lines)


def pids(name: str) -> list[int]:
    """Who is inside."""
    if not path(name).exists():
        return []
    wanted, found = path(name).stat().st_ino, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/net").stat().st_ino == wanted:
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended
    return found


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Let the calling thread, and what it starts, be in a namespace. Files stay everybody's."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(before)


def _enter(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def _ip(flags: Iterable[str], lines: Iterable[str]) -> None:
    text = "\n".join(lines)
    done = subprocess.run(
        ["ip", *flags, "-batch", "-"], input=text, capture_output=True, text=True, env={"PATH": PATH}, check=False
    )
    if done.returncode:
        raise LabError("lab_namespaces", f"ip {' '.join(flags)}: {' '.join(done.stderr.split())}")
