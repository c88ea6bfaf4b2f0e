"""Edges of other machines: taken out of service, and back."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection

from causeway.control.plane import Plane
from causeway.control.state import Drained, served
from causeway.exchange.words import Unreadable
from causeway.model.application import Address
from causeway.model.problem import Code, Problem
from causeway.store import edges


def drain(plane: Plane, name: str, *, is_drained: bool, is_forced: bool = False) -> None:
    """Have an edge serve nobody, or everybody again; durable, and on its way to the edge when this returns.

    Its applications end there as deleted ones do: by `on_delete` and `drain_s` of each.

    Raises:
        Problem: there is no such edge, or an application would be on none and that is not forced; nothing was changed.
    """
    known = {edge.name for edge in plane.fleet.exchange.edges()} if plane.fleet else set()
    if name not in known | plane.drained:
        told = f"those that have reported are {', '.join(sorted(known))}" if known else "none has reported here yet"
        raise Problem(Code.NOT_FOUND, f"there is no edge {name[:64]!r} on another machine: {told}")

    if is_drained and not is_forced:
        _refuse_if_last(plane, name)

    def write(connection: Connection) -> Drained | None:
        if (name in edges.drained(connection)) is is_drained:
            return None
        edges.set_drained(connection, name, is_drained=is_drained)
        return Drained(edges.drained(connection))

    plane.change(write)


def _refuse_if_last(plane: Plane, name: str) -> None:
    """An application that is served there must be served elsewhere too."""
    if plane.fleet is None:
        return
    here: tuple[Address, ...] = ()
    others = list(plane.site.edge_addresses)
    for edge in plane.fleet.exchange.edges():
        with suppress(Unreadable):
            addresses = edge.told.site.addresses() if edge.told else ()
            if edge.name == name:
                here = addresses
            elif edge.name not in plane.drained:
                others += addresses
    alone = [
        application
        for application in served(list(plane.pieces.values())).values()
        if application.edge_addresses(here) and not application.edge_addresses(tuple(others))
    ]
    if alone:
        first = alone[0]
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        raise Problem(
            Code.CONFLICT,
            f"application {first.id} ({first.dns.name}){more} would be on no edge without {name}: "
            "serve it elsewhere first, or force it (--force, ?force=true)",
        )
