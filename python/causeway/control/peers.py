"""Which edges speak to each other, kept over restarts of control: an edge that has not reported yet is no less one.

Without it the first snapshots after a start would name those alone that had reported by then, and edges would cut what
they have with the others.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from causeway.exchange.identity import write_whole

log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 20


def kept(path: Path | None) -> dict[str, str]:
    """Where they listen, by name, as far as it is known from before."""
    if path is None or not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MOST_BYTES), type=dict[str, str])
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s is not read (%s): edges speak to each other again once each has reported", path, error)
        return {}


def keep(path: Path | None, peers: dict[str, str]) -> None:
    if path is None:
        return
    try:
        write_whole(path, msgspec.json.encode(peers))
    except OSError as error:
        log.error("%s cannot be written (%s): after a restart flows between edges may be cut", path, error.strerror)
