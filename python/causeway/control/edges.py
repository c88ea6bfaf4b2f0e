"""Edges of other machines: taken out of service, and back."""

from __future__ import annotations

from sqlalchemy import Connection

from causeway.control.plane import Drained, Plane
from causeway.model.problem import Code, Problem
from causeway.store import edges


def drain(plane: Plane, name: str, *, is_drained: bool) -> None:
    """Have an edge serve nobody, or everybody again; durable, and on its way to the edge when this returns.

    Its applications end there as deleted ones do: by `on_delete` and `drain_s` of each.

    Raises:
        Problem: there is no such edge; nothing was changed.
    """
    known = {edge.name for edge in plane.fleet.exchange.edges()} if plane.fleet else set()
    if name not in known | plane.drained:
        told = f"those that have reported are {', '.join(sorted(known))}" if known else "none has reported here yet"
        raise Problem(Code.NOT_FOUND, f"there is no edge {name[:64]!r} on another machine: {told}")

    def write(connection: Connection) -> Drained | None:
        if (name in edges.drained(connection)) is is_drained:
            return None
        edges.set_drained(connection, name, is_drained=is_drained)
        return Drained(edges.drained(connection))

    plane.change(write)
