"""What edges are called, and the PoPs that they are in."""

from __future__ import annotations

import re

LOCAL = "local"  # the edge of control's own machine
_NUMBER = re.compile(r"-[0-9]+$")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


def is_edge_name(text: str) -> bool:
    """Whether an edge of another machine may be called so: 1 to 32 of a-z, 0-9 and inner hyphens, and not `local`."""
    return bool(_NAME.fullmatch(text)) and text != LOCAL


def pop_of(name: str) -> str:
    """Return the PoP that an edge is in: its name without the number at the end, so fra-1 and fra-2 are in fra."""
    return _NUMBER.sub("", name)
