"""What people ask about the present state: read models, put together from control's memory and the edge's report."""

from __future__ import annotations

import msgspec

from causeway.control.plane import Plane


def readiness(plane: Plane) -> str | None:
    """Why the newest state is not served, or nothing if it is."""
    if plane.unavailable:
        return plane.unavailable
    report = plane.exchange.report()
    if report is None:
        return "the edge has not reported yet"
    if report.is_draining:
        return "the edge is draining"
    if report.version < plane.version:
        return f"the edge serves version {report.version}, the newest is {plane.version}"
    return None


def application_states(plane: Plane) -> list[dict[str, object]]:
    """Each application with its listeners and counters, as the newest report of the edge has them."""
    report = plane.exchange.report()
    counters = {str(seen["id"]): seen for seen in report.applications} if report else {}
    refused = {(r.application, r.address): msgspec.to_builtins(r) for r in report.refused} if report else {}
    states: list[dict[str, object]] = []
    for piece in plane.pieces.values():
        application = piece.application
        ports = {"first": application.edge_ports.first, "last": application.edge_ports.last}
        listeners = [
            refused.get((application.id, str(address)))
            or {
                "application": application.id,
                "protocol": application.transport.value,
                "address": str(address),
                "ports": ports,
                "state": "running",
                "reason": None,
            }
            for address in application.edge_addresses(plane.site.edge_addresses)
        ]
        seen = counters.get(application.id, {})
        states.append(
            {
                "id": application.id,
                "zone_id": application.zone_id,
                "name": application.extension.name,
                "dns": application.dns.name,
                "protocol": application.protocol,
                "carrier": "engine",
                "listeners": listeners,
                "counters": {name: value for name, value in seen.items() if name != "id"},
            }
        )
    return states
