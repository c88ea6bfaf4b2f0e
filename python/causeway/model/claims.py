"""Who may have which address, protocol and port: no two applications the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from causeway.model.application import Address, Application


def rival(
    candidate: Application, others: Iterable[Application], available: tuple[Address, ...]
) -> tuple[Application, Address] | None:
    """The first other application that listens on an address and port of the candidate, and that address."""
    wanted = candidate.edge_addresses(available)
    for other in others:
        if other.id == candidate.id or other.transport is not candidate.transport:
            continue
        if not other.edge_ports.overlaps(candidate.edge_ports):
            continue
        for address in other.edge_addresses(available):
            if any(_meets(address, mine) for mine in wanted):
                return other, address
    return None


def _meets(one: Address, two: Address) -> bool:
    return one == two or (one.version == two.version and (one.is_unspecified or two.is_unspecified))
