"""Attacks that edges tell of are kept: written when something about them is new, found again after a restart."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Connection

from causeway.control.plane import Plane
from causeway.model.mitigation import Attack
from causeway.model.problem import Code, Problem
from causeway.store import attacks as stored
from causeway.store.database import StoreError

log = logging.getLogger(__name__)

MOST_ATTACKS = 10_000


class Chronicle:
    """Writes attacks down. `keep` is called once a second, so no attack costs more than that."""

    def __init__(self) -> None:
        self._kept: dict[str, Attack] | None = None  # as they were last written; none: nothing has been read yet
        self._trouble: str | None = None

    def keep(self, plane: Plane) -> None:
        """Write what the newest reports say anew. A database that fails is said once, and tried again."""
        reports = plane.reports().values()
        if not reports or plane.database is None or plane.unavailable:
            return
        told = {attack.id: attack for report in reports for attack in report.attacks}
        try:
            if self._kept is None:  # what went on when the last process ended may have ended without it
                with plane.database.read() as connection:
                    self._kept = {attack.id: attack for attack in stored.active(connection)}
            fresh = [attack for attack in told.values() if self._kept.get(attack.id) != attack]
            gone = [kept.id for kept in self._kept.values() if kept.ended_unix_ms is None and kept.id not in told]
            if fresh or gone:
                with plane.database.write() as connection:
                    _write(connection, fresh, gone)
        except StoreError as error:
            if self._trouble != str(error):
                log.error("attacks are not being kept: %s", error)
            self._trouble = str(error)
            return
        self._kept, self._trouble = told, None


def _write(connection: Connection, fresh: list[Attack], gone: list[str]) -> None:
    now_unix_ms = time.time_ns() // 1_000_000
    for attack in fresh:
        stored.save(connection, attack, now_unix_ms)
    for attack_id in gone:
        stored.end_unseen(connection, attack_id)
    if fresh:
        stored.keep_newest(connection, MOST_ATTACKS)


def attack_in(connection: Connection, attack_id: str) -> Attack:
    """The attack, or the Problem that there is none."""
    found = stored.find(connection, attack_id)
    if found is None:
        raise Problem(Code.NOT_FOUND, f"there is no attack {attack_id}: list attacks to see their ids")
    return found
