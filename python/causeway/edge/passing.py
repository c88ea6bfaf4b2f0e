"""New connections go on to another PoP while this one drains: the kernel passes their packets on, by nftables.

What began here goes on here: of TCP, flows are passed on whose first SYN was. UDP has no first packet, so who sends is
noted for a moment, and strangers are passed on from then on. When routers lead clients to the other PoP, such a flow is
there already, and nobody notices.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from enum import Enum

from causeway.model.application import Address, Network

_TABLE = "causeway_pass"
_MOST_FLOWS = 262_144  # about 25 MB; more are served here
_IDLE = "1h"
_WITHIN_S = 5.0
_FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}


class Stage(Enum):
    LEARNING = 1  # ports are open: new connections are passed on, who sends datagrams is noted
    PASSING = 2  # ports close: datagrams of others are passed on, too
    ENDING = 3  # new ones are served here again


class NoPassing(Exception):
    """The kernel cannot be told; the message says why."""


def rules(prefixes: Iterable[Network], gateways: Iterable[Address], stage: Stage) -> str:
    """What nft is to read: a table for each family that has a gateway. Flows that were passed on stay so."""
    prefixes, parts = tuple(prefixes), []
    for gateway in gateways:
        family, kind = _FAMILIES[gateway.version]
        to = ", ".join(str(prefix) for prefix in prefixes if prefix.version == gateway.version)
        table, ours = f"{family} {_TABLE}", f"{family} daddr {{ {to} }}"
        flow = f"meta l4proto . {family} saddr . th sport . {family} daddr . th dport"
        first = f"{ours} tcp flags & (fin | syn | rst | ack) == syn update @passed {{ {flow} }}"
        learn = f"{ours} meta l4proto udp update @kept {{ {flow} }}"
        strange = f"{ours} meta l4proto udp {flow} != @kept update @passed {{ {flow} }}"
        passed = f"{ours} meta l4proto {{ tcp, udp }} {flow} @passed update @passed {{ {flow} }} dup to {gateway} drop"
        wanted = {Stage.LEARNING: [first, learn], Stage.PASSING: [first, strange], Stage.ENDING: []}[stage]
        keys = f"type inet_proto . {kind} . inet_service . {kind} . inet_service"
        parts += [
            f"add table {table}",
            *(
                f"add set {table} {name} {{ {keys}; size {_MOST_FLOWS}; flags dynamic,timeout; timeout {_IDLE}; }}"
                for name in ("passed", "kept")
            ),
            f"add chain {table} incoming {{ type filter hook prerouting priority raw; policy accept; }}",
            f"flush chain {table} incoming",
            *(f"add rule {table} incoming {rule}" for rule in (*wanted, passed)),
        ]
    return "\n".join([*parts, ""])


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

    def to(self, stage: Stage) -> None:
        """Raises NoPassing."""
        self.is_on = stage is not Stage.ENDING
        _nft(rules(self.prefixes, self._gateways, stage))

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
