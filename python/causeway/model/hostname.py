"""Hostnames as DNS knows them: RFC 1035 lengths; letters, digits, hyphen and underscore; no wildcard. Pure."""

from __future__ import annotations

import re

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LONGEST = 253


def hostname(text: str) -> str | None:
    """Lower-case, without a trailing dot; nothing if it is no hostname. Unicode names go in as punycode."""
    if not text.isascii():  # before lower(), which turns some other letters into ASCII ones
        return None
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _LONGEST or labels[-1].isdigit():  # an address is no name
        return None
    return name if all(_LABEL.fullmatch(label) for label in labels) else None


def is_within(name: str, zone: str) -> bool:
    return name == zone or name.endswith("." + zone)
