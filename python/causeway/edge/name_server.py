"""The compiled name server of this process: it answers by the last table that is on disk, until it gets a newer one."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from causeway.model.application import Address
from causeway.model.snapshot import socket_text
from causeway.native import NameServer as Compiled
from causeway.native import NativeError

log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 30


class _Numbered(msgspec.Struct):
    serial: int


class NameServer:
    """`listen`: addresses and ports. What it answers by is kept in `folder`."""

    def __init__(self, listen: tuple[tuple[Address, int], ...], folder: Path) -> None:
        self._listen = [socket_text(*one) for one in listen]
        self._at, self._places_at = folder / "names.json", folder / "names-places.mmdb"
        self.table: bytes | None = None
        self.serial = 0
        self.places_sha256 = ""
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
        self.table = None
        try:
            if table := _kept(self._at):
                self._take(table)
            if places := _kept(self._places_at):
                self._server.set_places(places)
                self.places_sha256 = hashlib.sha256(places).hexdigest()
        except (NativeError, msgspec.MsgspecError) as error:
            log.warning("what names were answered by is not taken: %s", error)
        log.info("names are answered on %s", ", ".join(self._listen))

    def stop(self) -> None:
        if self._server:
            self._server.stop()

    def set_table(self, table: bytes) -> None:
        """Raises NativeError: it is none, and the one before stays."""
        self._take(table)
        _keep(self._at, table)

    def _take(self, table: bytes) -> None:
        if self._server:
            self._server.set_table(table)
        self.table, self.serial = table, msgspec.json.decode(table, type=_Numbered).serial

    def set_places(self, mmdb: bytes | None) -> str | None:
        try:
            if self._server:
                self._server.set_places(mmdb)
        except NativeError as error:
            self.set_places(None)
            return error.message
        self.places_sha256 = hashlib.sha256(mmdb).hexdigest() if mmdb else ""
        _keep(self._places_at, mmdb or b"")
        return None

    def counters(self) -> bytes:
        """Of questions, as JSON; nothing while it does not serve."""
        return self._server.counters() if self._server else b"null"


def _kept(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES) or None
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("what names were answered by cannot be read: %s", error)
        return None


def _keep(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    try:
        fresh.write_bytes(content)
        fresh.rename(path)
    except OSError as error:
        log.warning("names are answered, but a restart would not find them: %s", error)
