"""Which edges a flow goes through on its way to its origin, as each edge of a network has to know it.

Pure. A path names edges in order, the one that connects to the origin last; an empty one is direct. An edge that is in
a path takes what comes after it; one that is not, all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

MOST_HOPS = 3  # of `causeway_wire::overlay`
MOST_PATHS = 8

Paths = tuple[tuple[str, ...], ...]

_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Peer:
    """Another edge: its name, and where it listens for edges, as HOST:PORT. Drained, it gets no new flows."""

    name: str
    address: str
    is_drained: bool = False

    @property
    def socket(self) -> tuple[IPv4Address | IPv6Address, int]:
        host, _, port = self.address.rpartition(":")
        return ip_address(host.removeprefix("[").removesuffix("]")), int(port)


def from_edge(paths: Paths, name: str) -> Paths:
    """The paths as flows of clients that came to the edge `name` take them, each once."""
    return tuple(dict.fromkeys(path[path.index(name) + 1 :] if name in path else path for path in paths))


def is_exit(paths: Paths, name: str) -> bool:
    """Whether other edges' flows are connected to their origin there."""
    return any(path and path[-1] == name for path in paths)


def edges_in(paths: Paths) -> tuple[str, ...]:
    """Each edge that is named, once."""
    return tuple(dict.fromkeys(name for path in paths for name in path))


def exits_of(every: Iterable[Paths]) -> frozenset[str]:
    """The last edges of all these."""
    return frozenset(path[-1] for paths in every for path in paths if path)


def on_paths(
    encoded: bytes, paths: Paths, name: str, *, is_last: bool | None = None, is_steered: bool = False
) -> bytes:
    """An encoded application of a snapshot for the edge `name`: with the ways on from there, as its last keys.

    `is_last`: other edges hand flows of it over there, whatever these paths say; by default, what they say.
    `is_steered`: which ways its flows take is said apart from snapshots.
    """
    told: dict[str, object] = {}
    if is_exit(paths, name) if is_last is None else is_last:
        told["exit"] = True
    if (rest := from_edge(paths, name)) not in ((), ((),)):
        told["paths"] = rest
    if is_steered:
        told["steered"] = True
    return encoded[:-1] + b"," + _encode(told)[1:] if told else encoded


def encode_overlay(name: str, listen: str, peers: Iterable[Peer]) -> bytes:
    """`overlay` of a snapshot for the edge `name`, which listens for others at `listen`."""
    others = [
        {"name": peer.name, "address": peer.address, **({"drained": True} if peer.is_drained else {})}
        for peer in peers
        if peer.name != name
    ]
    return _encode({"name": name, "listen": listen, "peers": others})
