"""Network namespaces joined by veth pairs, with names of their own, always removed.

A block `with namespace:` does its sockets and its new processes in there; files are everybody's.
"""

import ctypes
import itertools
import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from types import TracebackType

import pytest

from support.program import environment, need

_CLONE_NEWNET = 0x4000_0000
_FOLDER = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network of its own; entering it moves the calling thread, and only that."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._handle = os.open(_FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
        self._before = threading.local()

    def __enter__(self) -> "Namespace":
        self._before.handles = [*getattr(self._before, "handles", []), os.open("/proc/thread-self/ns/net", os.O_RDONLY)]
        _enter(self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        before = self._before.handles.pop()
        try:
            _enter(before)
        finally:
            os.close(before)

    def ip(self, *arguments: str) -> None:
        _ip("-netns", self.name, *arguments)

    def setting(self, name: str, value: str) -> None:
        """Write `/proc/sys/net/…` of this namespace, such as `ipv4/ip_local_port_range`."""
        with self:
            (Path("/proc/sys/net") / name).write_text(value)

    def close(self) -> None:
        os.close(self._handle)


class Namespaces:
    """Makes namespaces and the wires between them."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        need("ip")
        self._made: list[Namespace] = []
        _remove_orphans()

    def make(self) -> Namespace:
        name = f"cw-{os.getpid()}-{next(self._numbers)}"
        try:
            _ip("netns", "add", name)
        except RuntimeError as error:
            pytest.skip(f"network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN): {error}")
        namespace = Namespace(name)
        self._made.append(namespace)
        namespace.ip("link", "set", "lo", "up")
        return namespace

    def join(self, left: Namespace, right: Namespace, number: int) -> None:
        """A wire: `left` gets 198.18.N.1 and 2001:db8:N::1, `right` the same with 2 at the end."""
        ends = [(left, f"cw{next(self._numbers)}"), (right, f"cw{next(self._numbers)}")]
        left.ip("link", "add", ends[0][1], "type", "veth", "peer", "name", ends[1][1], "netns", right.name)
        for host, (namespace, device) in enumerate(ends, 1):
            namespace.ip("address", "add", f"198.18.{number}.{host}/24", "dev", device)
            namespace.ip("address", "add", f"2001:db8:{number}::{host}/64", "dev", device, "nodad")
            namespace.ip("link", "set", device, "up")

    def remove(self) -> None:
        for namespace in self._made:
            namespace.close()
            _ip("netns", "delete", namespace.name)
        self._made.clear()


def _remove_orphans() -> None:
    """A run that was killed could not tidy up."""
    for path in _FOLDER.glob("cw-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            try:
                _ip("netns", "delete", path.name)
            except RuntimeError:
                if path.exists():  # or else another worker was first
                    raise


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, env=environment())
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _enter(handle: int) -> None:
    if _libc.setns(handle, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def device_of(namespace: Namespace) -> str:
    with namespace:
        return next(name for _, name in socket.if_nameindex() if name != "lo")


def mac_of(namespace: Namespace) -> str:
    """Of the device towards the client, which is the first."""
    with namespace:
        shown = subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout
    return str(next(link["address"] for link in json.loads(shown) if link["ifname"] != "lo"))
