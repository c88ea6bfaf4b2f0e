"""What an edge says of itself to its routers: prefixes, and on which terms each of them.

Pure. How it gets there is in `edge/bird.py`, when in `edge/announcing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from causeway.model.application import Address, Network

Community = tuple[int, int] | tuple[int, int, int]  # plain (RFC 1997), large (RFC 8092)
GRACEFUL_SHUTDOWN = (65_535, 0)  # RFC 8326: whoever honours it takes any other way
LAST_RESORT_MED = 0xFFFF_FFFF
_MOST_OF_PART = {2: 0xFFFF, 3: 0xFFFF_FFFF}


@dataclass(frozen=True, slots=True)
class Terms:
    """What goes along with a prefix; where there is a choice, routers of one neighbour take the lowest MED."""

    communities: tuple[Community, ...] = ()
    med: int | None = None


Announcements = Mapping[Network, Terms]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator has said: what is announced, how usually, and how for `leave_s` before it is withdrawn."""

    prefixes: tuple[Network, ...]
    usual: Terms = Terms()
    leaving: Terms = Terms((GRACEFUL_SHUTDOWN,), LAST_RESORT_MED)
    leave_s: float = 3.0
    pass_to: tuple[Address, ...] = ()  # of another PoP, on a link to there: at most one of each family


def parse_anycast(text: str) -> Network:
    """Raises ValueError: it is no prefix that an edge could announce."""
    network = ip_network(text)
    if network.prefixlen == 0 or network.is_multicast or network.is_loopback or network.is_link_local:
        raise ValueError("nobody is reached there from elsewhere")
    return network


def parse_community(text: str) -> Community:
    """Raises ValueError: it is neither like 64512:100 nor like 4200000000:1:100."""
    parts = text.split(":")
    most = _MOST_OF_PART.get(len(parts))
    if most is None or not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts):
        raise ValueError("a community is like 64512:100, a large one like 4200000000:1:100")
    numbers = [int(part) for part in parts]
    if max(numbers) > most:
        raise ValueError(f"a part of a {'large ' if len(parts) == 3 else ''}community is 0 to {most}")
    return (numbers[0], numbers[1]) if len(parts) == 2 else (numbers[0], numbers[1], numbers[2])


def community_text(community: Community) -> str:
    return ":".join(str(part) for part in community)
