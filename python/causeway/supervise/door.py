"""The way in to a running supervisor: a Unix socket in the data directory, for its owner alone.

A request is a line of JSON, the answer lines of JSON: `progress` any number of times, then `done` or `failed`.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAME = "control.sock"
_MOST_BYTES = 4096
_MOST_VISITORS = 16


class NobodyHome(Exception):
    """No supervisor runs on this data directory."""


@contextmanager
def _address(data_dir: Path) -> Iterator[str]:
    """A name short enough for a Unix socket (108 bytes), however deep the directory lies."""
    handle = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{NAME}"
    finally:
        os.close(handle)


def call(data_dir: Path, request: str, within_s: float) -> Iterator[dict[str, Any]]:
    """Ask the supervisor of `data_dir`; yield what it answers.

    Raises:
        NobodyHome: nothing runs there.
        TimeoutError: it did not say anything for `within_s`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        try:
            with _address(data_dir) as address:
                end.connect(address)
        except OSError as error:
            raise NobodyHome(error.strerror or str(error)) from error
        end.settimeout(within_s)
        end.sendall(json.dumps({"do": request}).encode() + b"\n")
        with end.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)


class Visitor:
    """Somebody who asked and waits for the end."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._read = end, b""
        end.setblocking(False)

    def fileno(self) -> int:
        return self._end.fileno()

    def request(self) -> str | None:
        """Return what is asked, empty while the line is not whole; None if they left or talk nonsense."""
        try:
            part = self._end.recv(_MOST_BYTES)
        except BlockingIOError:
            return ""
        except OSError:
            return None
        self._read += part
        if not part or len(self._read) > _MOST_BYTES:
            return None
        if b"\n" not in self._read:
            return ""
        with suppress(ValueError, AttributeError):
            return str(json.loads(self._read).get("do"))
        return None

    def tell(self, **told: object) -> None:
        with suppress(OSError):
            self._end.send(json.dumps(told).encode() + b"\n")

    def close(self) -> None:
        self._end.close()


class Door:
    """Where visitors come in; `asked` hears of each request that is whole."""

    def __init__(self, data_dir: Path, selector: selectors.BaseSelector, asked: Callable[[Visitor, str], None]) -> None:
        self._path, self._selector, self._asked = data_dir / NAME, selector, asked
        self._visitors: set[Visitor] = set()
        self._path.unlink(missing_ok=True)  # of a process that was killed: we hold the lock
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _address(data_dir) as address:
            self._end.bind(address)
        self._path.chmod(0o600)
        self._end.listen(8)
        self._end.setblocking(False)
        selector.register(self._end, selectors.EVENT_READ, self._on_knock)

    def _on_knock(self) -> None:
        try:
            end, _ = self._end.accept()
        except OSError:
            return
        if len(self._visitors) >= _MOST_VISITORS:
            end.close()
            return
        visitor = Visitor(end)
        self._visitors.add(visitor)
        self._selector.register(visitor, selectors.EVENT_READ, lambda: self._on_visitor(visitor))

    def _on_visitor(self, visitor: Visitor) -> None:
        request = visitor.request()
        if request is None:
            self.show_out(visitor)
        elif request:
            self._asked(visitor, request)

    def show_out(self, visitor: Visitor) -> None:
        if visitor in self._visitors:
            self._visitors.remove(visitor)
            self._selector.unregister(visitor)
            visitor.close()

    def close(self) -> None:
        self._selector.unregister(self._end)
        self._end.close()
        self._path.unlink(missing_ok=True)
