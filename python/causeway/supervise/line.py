"""What a supervisor and its serving process say to each other: whole JSON messages, some with a descriptor.

One end each of a Unix socket pair. A message that is a single zero byte is a heartbeat of the engine. Old and new
versions talk over this, so unknown words are passed over and no word changes its meaning.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

BIRTH_VARIABLE = "CAUSEWAY_BIRTH"  # how a supervisor tells its child what it was given
_MOST_BYTES = 16 * 1024
_BEAT = b"\0"


@dataclass(frozen=True, slots=True)
class Word:
    """One message. `name` is empty for a heartbeat."""

    name: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    link: socket.socket | None = None


class Line:
    """One end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)

    @staticmethod
    def pair() -> tuple[Line, socket.socket]:
        """Make both ends; the second one is for a child."""
        own, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Line(own), child

    def fileno(self) -> int:
        return self._end.fileno()

    def say(self, name: str, link: socket.socket | None = None, **told: object) -> bool:
        """Send a word; False if nobody is there or too much waits already."""
        message = json.dumps({"word": name, **told}).encode()[:_MOST_BYTES]
        try:
            socket.send_fds(self._end, [message], [link.fileno()] if link else [])
        except OSError:
            return False
        return True

    def hear(self) -> list[Word] | None:
        """Return the words that wait; None once the other side is gone."""
        words: list[Word] = []
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._end, _MOST_BYTES, 1)
            except BlockingIOError:
                return words
            except OSError:
                return words or None
            if not message:
                return words or None
            link = socket.socket(fileno=fds[0]) if fds else None
            if message == _BEAT:
                words.append(Word())
                continue
            with suppress(ValueError):
                read = json.loads(message)
                if isinstance(read, dict):
                    words.append(Word(str(read.pop("word", "?")), read, link))

    def close(self) -> None:
        self._end.close()


@dataclass(frozen=True, slots=True)
class Birth:
    """What a serving process is given: descriptors by number, and its parent."""

    parent: int
    line: int
    api: int
    link: int | None = None
    is_first: bool = False
    distrusts_last: bool = False  # the two processes before it died of themselves, soon after they had begun to serve

    def encoded(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @staticmethod
    def take() -> Birth | None:
        """Read it out of the environment, once."""
        told = os.environ.pop(BIRTH_VARIABLE, None)
        if told is None:
            return None
        read = json.loads(told)
        return Birth(**{name: read[name] for name in Birth.__slots__ if name in read})
