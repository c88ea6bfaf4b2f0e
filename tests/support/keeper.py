"""Connections that never stop echoing, to see whether anything cuts or delays them."""

import socket
import threading
import time
from types import TracebackType

from support.echo import echoes

PAUSE_S = 0.01  # all connections together, so that the keeper itself is little load


class Keeper(threading.Thread):
    """Echo on every connection in turn until the end of the block."""

    def __init__(self, addresses: list[tuple[str, int]]) -> None:
        super().__init__()
        self.connections = [socket.create_connection(address, timeout=5) for address in addresses]
        self.cut: list[str] = []
        self.rounds = 0
        self.longest_s = 0.0
        self._has_ended = threading.Event()

    def run(self) -> None:
        while not self._has_ended.wait(PAUSE_S) and not self.cut:
            for connection in self.connections:
                self._echo(connection)
            self.rounds += 1

    def _echo(self, connection: socket.socket) -> None:
        began_s = time.monotonic()
        try:
            if not echoes(connection, b"%d" % self.rounds):
                self.cut.append(f"{connection.getpeername()} ended in round {self.rounds}")
        except OSError as error:
            self.cut.append(f"{error} in round {self.rounds}")
        self.longest_s = max(self.longest_s, time.monotonic() - began_s)

    def __enter__(self) -> "Keeper":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended.set()
        self.join()
        for connection in self.connections:
            connection.close()
