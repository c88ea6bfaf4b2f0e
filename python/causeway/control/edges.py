"""Edges of other machines: taken out of service, and back."""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress

from sqlalchemy import Connection

from causeway.control.plane import Plane
from causeway.control.state import Drained, served
from causeway.exchange.words import Unreadable
from causeway.model.application import Address
from causeway.model.edge import pop_of
from causeway.model.problem import Code, Problem
from causeway.store import edges


def drain(plane: Plane, name: str, *, is_drained: bool, is_forced: bool = False) -> None:
    """Have an edge serve nobody, or everybody again; durable, and on its way to the edge when this returns.

    Its applications end there as deleted ones do: by `on_delete` and `drain_s` of each.

    Raises:
        Problem: there is no such edge, or an application would be on none and that is not forced; nothing was changed.
    """
    known = _known(plane)
    if name not in known | plane.drained:
        told = f"those that have reported are {', '.join(sorted(known))}" if known else "none has reported here yet"
        raise Problem(Code.NOT_FOUND, f"there is no edge {name[:64]!r} on another machine: {told}")
    _drain(plane, {name}, name, is_drained=is_drained, is_forced=is_forced)


def drain_pop(plane: Plane, pop: str, *, is_drained: bool, is_forced: bool = False) -> list[str]:
    """As `drain`, of all edges of other machines in a PoP or of none. Answers which they are.

    Raises:
        Problem: there is no such PoP, or an application would be on no edge and that is not forced.
    """
    known = _known(plane) | plane.drained
    names = {name for name in known if pop_of(name) == pop}
    if not names:
        pops = sorted({pop_of(name) for name in known})
        told = f"there are {', '.join(pops)}" if pops else "no edge has reported here yet"
        raise Problem(Code.NOT_FOUND, f"there is no PoP {pop[:64]!r} on other machines: {told}")
    _drain(plane, names, f"PoP {pop}", is_drained=is_drained, is_forced=is_forced)
    return sorted(names)


def _known(plane: Plane) -> set[str]:
    return {edge.name for edge in plane.fleet.exchange.edges()} if plane.fleet else set()


def _drain(plane: Plane, names: Set[str], called: str, *, is_drained: bool, is_forced: bool) -> None:
    if is_drained and not is_forced:
        _refuse_if_last(plane, names, called)

    def write(connection: Connection) -> Drained | None:
        changed = [name for name in names if (name in edges.drained(connection)) is not is_drained]
        for name in changed:
            edges.set_drained(connection, name, is_drained=is_drained)
        return Drained(edges.drained(connection)) if changed else None

    plane.change(write)


def _refuse_if_last(plane: Plane, names: Set[str], called: str) -> None:
    """An application that is served there must be served elsewhere too."""
    if plane.fleet is None:
        return
    here: tuple[Address, ...] = ()
    others = list(plane.site.edge_addresses)
    for edge in plane.fleet.exchange.edges():
        with suppress(Unreadable):
            addresses = edge.told.site.addresses() if edge.told else ()
            if edge.name in names:
                here += addresses
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
            f"application {first.id} ({first.dns.name}){more} would be on no edge without {called}: "
            "serve it elsewhere first, or force it (--force, ?force=true)",
        )
