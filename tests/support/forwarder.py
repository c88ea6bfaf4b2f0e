"""A way over TCP that a test can cut, or have swallow everything, as a network does that fails."""

import socket
import threading
from contextlib import suppress


class Forwarder:
    def __init__(self, port: int) -> None:
        """To that port of this machine."""
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._is_open, self._swallows, self._is_over = True, False, False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def swallow(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        self._swallows = True

    def cut(self) -> None:
        """Connections end, and new ones do too."""
        self._is_open = False
        self._end()

    def mend(self) -> None:
        self._end()  # what was swallowed is lost, so those connections are of no use
        self._is_open, self._swallows = True, False

    def close(self) -> None:
        self._is_over = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self._end()

    def _end(self) -> None:
        for pair in self._pairs:
            for one in pair:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._pairs.clear()

    def _accept(self) -> None:
        while not self._is_over:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to)) if self._is_open else None
            except OSError:
                server = None
            if server is None:
                client.close()
                continue
            self._pairs.append((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65_536):
                if not self._swallows:
                    sink.sendall(content)
            sink.shutdown(socket.SHUT_WR)
