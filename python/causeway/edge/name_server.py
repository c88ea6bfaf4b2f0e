"""The compiled name server of this process: it answers by the last table that is on disk, until it gets a newer one."""

from __future__ import annotations

import logging
from pathlib import Path

from causeway.model.application import Address
from causeway.model.snapshot import socket_text
from causeway.native import NameServer as Compiled
from causeway.native import NativeError

log = logging.getLogger(__name__)

_MOST_TABLE_BYTES = 256 << 20


class NameServer:
    """`listen`: addresses and ports. Its last table is kept at `path`."""

    def __init__(self, listen: tuple[tuple[Address, int], ...], path: Path) -> None:
        self._listen, self._path = [socket_text(*one) for one in listen], path
        self.table: bytes | None = None
        self._places: bytes | None = None
        self._server: Compiled | None = None
        self._trouble = ""

    def start(self) -> None:
        """Serve, if it does not yet. What is in the way is said once, and tried again at the next call."""
        if self._server is not None:
            return
        try:
            self._server = Compiled.start(self._listen)
        except NativeError as error:
            if error.message != self._trouble:
                self._trouble = error.message
                log.error("names are not answered here: %s; it is tried again", error.message)
            return
        if self._places is not None:
            self.set_places(self._places)
        table = self.table or self._kept()
        if table is not None:
            try:
                self._server.set_table(table)
                self.table = table
            except NativeError as error:
                log.warning("the table of names on disk is not taken: %s", error.message)
        log.info("names are answered on %s", ", ".join(self._listen))

    def stop(self) -> None:
        if self._server:
            self._server.stop()

    def set_table(self, table: bytes) -> None:
        """Raises NativeError: it is none, and the one before stays."""
        if self._server:
            self._server.set_table(table)
        self.table = table
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(table)
            fresh.rename(self._path)
        except OSError as error:
            log.warning("names are answered, but a restart would not find them: %s", error)

    def set_places(self, mmdb: bytes | None) -> str | None:
        try:
            if self._server:
                self._server.set_places(mmdb)
        except NativeError as error:
            self._server.set_places(None) if self._server else None
            return error.message
        self._places = mmdb
        return None

    def counters(self) -> bytes:
        """Of questions, as JSON; nothing while it does not serve."""
        return self._server.counters() if self._server else b"null"

    def _kept(self) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                return file.read(_MOST_TABLE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the table of names on disk cannot be read: %s", error)
            return None
