"""Who has which address, protocol and port: no two applications the same. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import NamedTuple

from causeway.model.application import Address, Application, Transport


class Claim(NamedTuple):
    """Ports of one application on one address; claims of an address never overlap, so they sort by port."""

    first: int
    last: int
    application_id: str


class Claims:
    """A book of what is taken. `addresses` are those where the application really listens."""

    def __init__(self) -> None:
        self._taken: dict[tuple[Transport, Address], list[Claim]] = {}

    def add(self, application: Application, addresses: Iterable[Address]) -> None:
        for address in addresses:
            insort(self._taken.setdefault((application.transport, address), []), _claim(application))

    def remove(self, application: Application, addresses: Iterable[Address]) -> None:
        for address in addresses:
            self._taken[application.transport, address].remove(_claim(application))

    def rival(self, application: Application, addresses: Iterable[Address]) -> tuple[str, Address] | None:
        """The id of another application that has one of these ports, and the address where."""
        first, last = application.edge_ports.first, application.edge_ports.last
        for address in addresses:
            taken = self._taken.get((application.transport, address), [])
            at = bisect_left(taken, first, key=lambda claim: claim.last)
            while at < len(taken) and taken[at].first <= last:
                if taken[at].application_id != application.id:
                    return taken[at].application_id, address
                at += 1
        return None


def _claim(application: Application) -> Claim:
    return Claim(application.edge_ports.first, application.edge_ports.last, application.id)
