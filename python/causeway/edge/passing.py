"""New connections go on to another PoP while this one drains: the kernel passes their packets on, by nftables.

What began here goes on here, since only flows whose first SYN was passed on are. When routers lead clients to the other
PoP, such a flow is there already, and nobody notices. UDP has no first packet that says so, and is not passed on.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from causeway.model.application import Address, Network

_TABLE = "causeway_pass"
_MOST_FLOWS = 262_144  # about 25 MB; more are served here
_IDLE = "1h"
_WITHIN_S = 5.0
_FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}


class NoPassing(Exception):
    """The kernel cannot be told; the message says why."""


def rules(prefixes: Iterable[Network], gateways: Iterable[Address], *, takes_new: bool) -> str:
    """What nft is to read: a table for each family that has a gateway. Flows that were passed on stay so."""
    prefixes, parts = tuple(prefixes), []
    for gateway in gateways:
        family, kind = _FAMILIES[gateway.version]
        to = ", ".join(str(prefix) for prefix in prefixes if prefix.version == gateway.version)
        if not to:
            continue
        flow, passed = f"{family} saddr . tcp sport . {family} daddr . tcp dport", "passed"
        first = f"{family} daddr {{ {to} }} tcp flags & (fin | syn | rst | ack) == syn update @{passed} {{ {flow} }}"
        parts.append(
            f"add table {family} {_TABLE}\n"
            f"add set {family} {_TABLE} {passed} {{ type {kind} . inet_service . {kind} . inet_service; "
            f"size {_MOST_FLOWS}; flags dynamic,timeout; timeout {_IDLE}; }}\n"
            f"add chain {family} {_TABLE} incoming {{ type filter hook prerouting priority raw; policy accept; }}\n"
            f"flush chain {family} {_TABLE} incoming\n"
            + (f"add rule {family} {_TABLE} incoming {first}\n" if takes_new else "")
            + f"add rule {family} {_TABLE} incoming {family} daddr {{ {to} }} meta l4proto tcp {flow} @{passed} "
            f"update @{passed} {{ {flow} }} dup to {gateway} drop\n"
        )
    return "".join(parts)


def removal(gateways: Iterable[Address]) -> str:
    families = [_FAMILIES[gateway.version][0] for gateway in gateways]
    return "".join(f"add table {family} {_TABLE}\ndelete table {family} {_TABLE}\n" for family in families)


class Passing:
    """What the kernel has been told."""

    def __init__(self, prefixes: tuple[Network, ...], gateways: tuple[Address, ...]) -> None:
        versions = {gateway.version for gateway in gateways}
        self.prefixes = tuple(prefix for prefix in prefixes if prefix.version in versions)
        self._gateways = gateways
        self.is_on = False

    def begin(self) -> None:
        """Pass new connections on from now on. Raises NoPassing."""
        _nft(rules(self.prefixes, self._gateways, takes_new=True))
        self.is_on = True

    def begin_no_more(self) -> None:
        """Those that were passed on are so until they end; new ones are served here. Raises NoPassing."""
        self.is_on = False
        _nft(rules(self.prefixes, self._gateways, takes_new=False))

    def end(self) -> None:
        """Raises NoPassing."""
        self.is_on = False
        _nft(removal(self._gateways))


def _nft(text: str) -> None:
    try:
        done = subprocess.run(["nft", "-f", "-"], input=text.encode(), capture_output=True, timeout=_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoPassing(f"nft cannot be run: {error}: install nftables") from error
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()[:1]
        raise NoPassing(f"nft refuses what passes connections on: {why[0][:200] if why else done.returncode}")
