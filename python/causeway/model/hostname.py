"""Hostnames as DNS knows them (RFC 1035 lengths, letters, digits, hyphen, underscore; a leading `*.` is not one)."""

from __future__ import annotations

import re

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
LONGEST = 253


def hostname(text: str) -> str | None:
    """Lower-case, without a trailing dot; nothing if it is no hostname. Unicode names go in as punycode."""
    name = text.lower().removesuffix(".")
    if not name or len(name) > LONGEST or name.replace(".", "").isdigit():
        return None
    return name if all(_LABEL.fullmatch(label) for label in name.split(".")) else None


def is_within(name: str, zone: str) -> bool:
    return name == zone or name.endswith("." + zone)
