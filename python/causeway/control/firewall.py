"""Lists and databases of the firewall: taken in, replaced, deleted; and what the rules say of an address.

The edge reads and checks them, so what was accepted is what holds. Content is stored under its digest.
"""

from __future__ import annotations

import logging
import secrets

from sqlalchemy import Connection

from causeway.control.plane import Plane, now, told
from causeway.control.state import NewRules
from causeway.exchange.bus import ControlSide, EdgeRefused
from causeway.model.access_rule import GeoDatabase, List, Target
from causeway.model.problem import Code, Problem
from causeway.model.report import BlobReport, Explanation, RuleHits
from causeway.store import access_rules as stored_rules
from causeway.store import firewall_lists as stored

log = logging.getLogger(__name__)

MOST_LISTS = 100


def save_list(
    plane: Plane, name: str, content: bytes, *, description: str | None, overlaps: bool, private: bool
) -> List:
    """Make a list, or replace it as a whole; rules that name it hold with the new one at once.

    Raises:
        Problem: with the line that is wrong; nothing was changed.
    """
    report = _put(plane, "list", content, overlaps=overlaps, private=private)
    made: list[List] = []

    def write(connection: Connection) -> NewRules | None:
        moment = now()
        before = stored.find(connection, name)
        if before is None and len(stored.every(connection)) >= MOST_LISTS:
            raise Problem(Code.ACCESS_RULE, f"there are {MOST_LISTS} lists, the most possible: delete one first")
        after = List(
            id=before.id if before else secrets.token_hex(16),
            name=name,
            description=description if description is not None else before.description if before else "",
            digest=report.digest,
            ipv4=report.ipv4,
            ipv6=report.ipv6,
            created_on=before.created_on if before else moment,
            modified_on=moment,
        )
        made.append(after)
        stored.save_content(connection, report.digest, "list", content)
        stored.save(connection, after)
        stored.forget_contents(connection)
        return NewRules() if before and before.digest != after.digest else None

    plane.change(write)
    return made[0]


def delete_list(plane: Plane, name: str) -> List:
    """Delete a list that no rule names. Raises Problem: nothing was changed."""
    made: list[List] = []

    def write(connection: Connection) -> NewRules | None:
        found = list_in(connection, name)
        if count := stored_rules.count_naming(connection, Target.LIST, found.name):
            raise Problem(Code.CONFLICT, f"{count} rule(s) name the list {found.name}: delete them first")
        stored.remove(connection, found.id)
        stored.forget_contents(connection)
        made.append(found)
        return None

    plane.change(write)
    return made[0]


def list_in(connection: Connection, name: str) -> List:
    """The list, or the Problem that there is none."""
    found = stored.find(connection, name)
    if found is None:
        raise Problem(Code.NOT_FOUND, f"there is no list {name!r}: list them to see their names")
    return found


def save_database(plane: Plane, target: Target, name: str, content: bytes) -> GeoDatabase:
    """Take a database of countries or AS numbers into use; rules hold by it at once.

    Raises:
        Problem: it cannot be read, and why; the one before stays.
    """
    report = _put(plane, target.value, content, overlaps=True, private=True)
    made = GeoDatabase(target, report.digest, name, report.prefixes, report.keys, now())

    def write(connection: Connection) -> NewRules:
        stored.save_content(connection, report.digest, target.value, content)
        stored.save_database(connection, made)
        stored.forget_contents(connection)
        return NewRules()

    plane.change(write)
    return made


def delete_database(plane: Plane, target: Target) -> None:
    """Give a database up that no rule needs. Raises Problem: nothing was changed."""

    def write(connection: Connection) -> NewRules:
        if target not in [found.target for found in stored.databases(connection)]:
            raise Problem(Code.NOT_FOUND, f"there is no database for {target}")
        if count := stored_rules.count_naming(connection, target):
            raise Problem(Code.CONFLICT, f"{count} rule(s) are by {target}: delete them first")
        stored.remove_database(connection, target)
        stored.forget_contents(connection)
        return NewRules()  # limits by AS number hold for nobody now

    plane.change(write)


def rule_hits(plane: Plane) -> list[RuleHits]:
    """Of every edge that answers."""
    found = []
    for side in plane.sides():
        try:
            found += side.rule_hits()
        except EdgeRefused as error:
            log.info("hits of rules are told without an edge: %s", error)
    return found


def explain(plane: Plane, address: str, port: int | None) -> list[tuple[str, int, Explanation | None]]:
    """What the edge says of a client at each application: its id, the port asked about, and none without rules.

    Without a port the first one of each application, else only those that have it.
    """
    sides = [plane.exchange] if plane.site.has_edge else plane.sides()
    if not sides:
        raise Problem(Code.INTERNAL, "no edge answers now, and the rules are held by edges: try again", side="edge")
    asked: list[tuple[str, int]] = []
    for piece in list(plane.pieces.values()):
        ports = piece.application.edge_ports
        at = ports.first if port is None else port
        is_there = piece.addresses or not plane.site.has_edge
        if is_there and not piece.unserved and ports.first <= at <= ports.last:
            asked.append((piece.application.id, at))
    with told():
        return [(id_, at, _explained(sides, id_, address, at)) for id_, at in asked]


def _explained(sides: list[ControlSide], application: str, address: str, port: int) -> Explanation | None:
    """By the first edge that has rules for it."""
    return next((said for side in sides if (said := side.explain(application, address, port))), None)


def _put(plane: Plane, kind: str, content: bytes, *, overlaps: bool, private: bool) -> BlobReport:
    try:
        return plane.exchange.put_blob(kind, content, overlaps=overlaps, private=private)
    except EdgeRefused as error:
        raise Problem(Code.ACCESS_RULE, f"{error}; nothing was changed") from error
