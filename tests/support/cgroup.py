"""A cgroup with a memory limit for a program under test, versions 2 and 1; buffers of sockets count."""

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.patience import eventually

_numbers = itertools.count()
REAPED_S = 20


class MemoryGroup:
    """A directory of the kernel's; what is started `under` it is limited."""

    def __init__(self, directory: Path, version: int, limit_bytes: int) -> None:
        self._directory, self.version = directory, version
        if version == 2:
            (directory / "memory.max").write_text(str(limit_bytes))
            self._off_swap("memory.swap.max", 0)
        else:
            (directory / "memory.limit_in_bytes").write_text(str(limit_bytes))
            (directory / "memory.kmem.tcp.limit_in_bytes").write_text(str(limit_bytes))
            self._off_swap("memory.memsw.limit_in_bytes", limit_bytes)
        self.under = ("sh", "-c", f'echo $$ > {directory}/cgroup.procs && exec "$@"', "sh")

    def _off_swap(self, name: str, value: int) -> None:
        if (self._directory / name).exists():
            (self._directory / name).write_text(str(value))

    @property
    def oom_kills(self) -> int:
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        lines = (self._directory / name).read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))

    @property
    def peak_bytes(self) -> dict[str, int]:
        """The most that was ever charged; on version 1 the buffers of TCP apart."""
        names = (
            ["memory.peak"]
            if self.version == 2
            else ["memory.max_usage_in_bytes", "memory.kmem.tcp.max_usage_in_bytes"]
        )
        files = [self._directory / name for name in names]
        return {file.name: int(file.read_text()) for file in files if file.exists()}


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Make one; skips the test where that is not possible. What runs in it must have ended before this does."""
    top, version = _top()
    directory = top / f"causeway-test-{os.getpid()}-{next(_numbers)}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"a memory limit needs the right to make cgroups in {top}: {error.strerror}")
    try:
        yield MemoryGroup(directory, version, limit_bytes)
    finally:
        eventually(lambda: _removed(directory), REAPED_S, every_s=0.02)


def _removed(directory: Path) -> bool:
    """Whether the group is gone. The kernel keeps it until whoever inherited its dead processes has reaped them."""
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def _top() -> tuple[Path, int]:
    """Where groups with a memory limit are made."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = (part.split() for part in line.split(" - "))
        top, kind, options = Path(left[4]), right[0], right[-1].split(",")
        if kind == "cgroup" and "memory" in options:
            return top, 1
        if kind == "cgroup2" and "memory" in (top / "cgroup.controllers").read_text().split():
            if "memory" not in (control := top / "cgroup.subtree_control").read_text().split():
                try:
                    control.write_text("+memory")
                except OSError as error:
                    pytest.skip(f"the memory controller cannot be switched on in {top}: {error.strerror}")
            return top, 2
    pytest.skip("no cgroup hierarchy here has the memory controller (cgroup v2: memory in cgroup.controllers)")
