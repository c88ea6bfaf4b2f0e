"""Which zone and which application does the operator mean?

Pure: the caller brings the lists. Names nothing that is not in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from causeway.cli.problems import Missing, Misuse

if TYPE_CHECKING:
    from causeway.answers import Application, Zone

ID = re.compile(r"[0-9a-f]{32}")
SHORT_ID_CHARS = 8  # shown in tables
PREFIX_MIN_CHARS = 4


def choose_zone(zones: Sequence[Zone], wanted: str | None, hostname: str | None = None) -> Zone:
    """Return the zone named, else the one the hostname is in, else the only one."""
    if wanted:
        named = [zone for zone in zones if wanted.lower().rstrip(".") in (zone["id"], zone["name"])]
        if named:
            return named[0]
        raise Missing(f"there is no zone {wanted!r}; {_known(zones)}")
    if hostname and "." in hostname:
        holding = [zone for zone in zones if is_inside(hostname, zone["name"])]
        if holding:
            return max(holding, key=lambda zone: len(zone["name"]))
    if len(zones) == 1:
        return zones[0]
    if not zones:
        raise Missing("there is no zone yet; make one with `causeway zones create example.net`")
    raise Misuse(f"say which zone with --zone; {_known(zones)}")


def is_inside(hostname: str, zone: str) -> bool:
    name = hostname.lower().rstrip(".")
    return name == zone or name.endswith(f".{zone}")


def choose_application(found: Sequence[tuple[Zone, Application]], wanted: str) -> tuple[Zone, Application]:
    """Return the application with this ID, hostname, own name, or beginning of an ID."""
    lowered = wanted.lower()
    exact = [pair for pair in found if pair[1]["id"] == lowered]
    named = [pair for pair in found if is_called(pair[1], pair[0], wanted)]
    short = [pair for pair in found if len(wanted) >= PREFIX_MIN_CHARS and pair[1]["id"].startswith(lowered)]
    chosen = exact or named or short
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise Missing(f"there is no application {wanted!r}; see `causeway apps list`")
    several = ", ".join(f"{application['id']} ({application['protocol']})" for _, application in chosen)
    raise Misuse(f"{wanted!r} is {len(chosen)} applications; give one of their IDs: {several}")


def is_called(application: Application, zone: Zone, wanted: str) -> bool:
    """Is this its hostname, the hostname without the zone, or the name of its own?"""
    name = wanted.lower().rstrip(".")
    return application["dns"]["name"] in (name, f"{name}.{zone['name']}") or wanted == own_name(application)


def own_name(application: Application) -> str | None:
    name = application.get("x_causeway", {}).get("name")
    return name if isinstance(name, str) and name else None


def short_id(application_id: str) -> str:
    return application_id[:SHORT_ID_CHARS]


def _known(zones: Sequence[Zone]) -> str:
    if not zones:
        return "make it with `causeway zones create NAME`"
    return "there are: " + ", ".join(zone["name"] for zone in zones[:20])
