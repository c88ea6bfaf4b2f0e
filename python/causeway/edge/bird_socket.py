"""The way to a running BIRD: its control socket, and the file that its configuration includes.

Everything has a deadline; whoever answers there may be anything.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from causeway.edge.bird import BirdTrouble, Reply, ReplyReader, check_greeting

_WITHIN_S = 3.0
_READ_BYTES = 8192


def ask(path: Path, commands: Sequence[str] = (), within_s: float = _WITHIN_S) -> tuple[str, list[Reply]]:
    """Say the commands one after the other; return what BIRD calls itself, and its replies.

    Raises:
        BirdTrouble: nobody is there, it is not BIRD, or it takes too long.
    """
    until_s = time.monotonic() + within_s
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.settimeout(within_s)
            end.connect(str(path))
            talk = _Talk(end, until_s)
            version = check_greeting(talk.reply())
            return version, [talk.ask(command) for command in commands]
    except TimeoutError:
        raise BirdTrouble(f"BIRD does not answer on {path} within {within_s:g} s") from None
    except (OSError, ValueError) as error:  # a ValueError: the name is too long for a socket
        why = getattr(error, "strerror", None) or str(error)
        raise BirdTrouble(f"BIRD cannot be reached on {path}: {why}: start it, or give its --bird-socket") from error


class _Talk:
    def __init__(self, end: socket.socket, until_s: float) -> None:
        self._end, self._until_s, self._reader = end, until_s, ReplyReader()
        self._replies: list[Reply] = []

    def ask(self, command: str) -> Reply:
        self._end.sendall(command.encode() + b"\n")
        return self.reply()

    def reply(self) -> Reply:
        while not self._replies:
            left_s = self._until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._end.settimeout(left_s)
            data = self._end.recv(_READ_BYTES)
            if not data:
                raise BirdTrouble("BIRD has closed its control socket: it has ended, or is being started")
            self._replies += self._reader.feed(data)
        return self._replies.pop(0)


def write_include(path: Path, text: str) -> bool:
    """Have the file say that, whole or not at all; return whether it said something else.

    Raises:
        BirdTrouble: it cannot be written.
    """
    try:
        if _content(path) == text:
            return False
        fresh = path.with_name(f".{path.name}.new")  # a name that an include of *.conf passes over
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644), "w") as file:
            os.fchmod(file.fileno(), 0o644)  # BIRD reads it as a user of its own, and it holds no secret
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError as error:
        raise BirdTrouble(f"{path} cannot be written: {error.strerror}: give another --bird-include") from error
    return True


def _content(path: Path) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
