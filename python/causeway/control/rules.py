"""The rules of an application that need more than itself: its zone, its neighbours, this machine."""

from __future__ import annotations

from sqlalchemy import Connection

from causeway.control.plane import Plane
from causeway.control.zones import zone_in
from causeway.model.application import Address, Application, DirectOrigin, NamedOrigin
from causeway.model.paths import edges_in
from causeway.model.problem import Code, Problem
from causeway.store import zones


def check(plane: Plane, connection: Connection, application: Application) -> None:
    """Pass what may be served here.

    Raises:
        Problem: the first rule that is broken.
    """
    zone = zone_in(connection, application.zone_id)
    _check_hostname(connection, application, zone.name)
    _check_edge_addresses(plane, application)
    _check_origins(plane, application)
    _check_ports(plane, application)
    _check_paths(plane, connection, application)


def _check_hostname(connection: Connection, application: Application, zone: str) -> None:
    name = application.dns.name
    owner = zones.owner(connection, name)
    if owner != zone:
        why = f"belongs to zone {owner}" if owner else "belongs to no zone here"
        raise Problem(Code.HOSTNAME, f"hostname {name} {why}: use a name within {zone}", pointer="/dns/name")


def _check_edge_addresses(plane: Plane, application: Application) -> None:
    available = plane.site.edge_addresses
    if not application.edge_ips.is_static and plane.site.has_edge and not application.edge_addresses(available):
        raise Problem(
            Code.EDGE_IP_FAMILY,
            f"edge_ips.connectivity {application.edge_ips.connectivity}: this edge has no such address; "
            "start it with a fitting --edge-ip",
            pointer="/edge_ips/connectivity",
        )
    if not application.edge_ips.is_static:
        return
    reserved = {
        address: piece.application
        for piece in plane.pieces.values()
        if piece.application.edge_ips.is_static and piece.application.zone_id != application.zone_id
        for address in piece.application.edge_ips.static
    }
    for number, address in enumerate(application.edge_ips.static):
        pointer = f"/edge_ips/ips/{number}"
        if address not in available and not _is_elsewhere(plane, address):
            known = ", ".join(str(ip) for ip in available)
            others = "; nor has an edge of another machine reported it" if plane.fleet else ""
            own = f"is not an address of this edge, which has {known}{others}"
            raise Problem(
                Code.EDGE_IP_NOT_OURS,
                f"static edge IP {address} {own if plane.site.has_edge else 'was not reported by any edge'}",
                pointer=pointer,
            )
        if other := reserved.get(address):
            raise Problem(
                Code.EDGE_IP_OF_OTHER_ZONE,
                f"static edge IP {address} is reserved by another zone (application {other.id}, {other.dns.name})",
                pointer=pointer,
            )


def _is_elsewhere(plane: Plane, address: Address) -> bool:
    """Whether an edge of another machine has it, or was found to when another application was made."""
    if plane.fleet is None:
        return False
    return address in plane.elsewhere or any(
        address in piece.application.edge_ips.static for piece in plane.pieces.values()
    )


def _check_origins(plane: Plane, application: Application) -> None:
    if isinstance(application.origins, NamedOrigin):
        return  # the engine judges each address that the name resolves to
    for number, origin in enumerate(application.origins):
        refusal = plane.site.origins.refusal(origin)
        if refusal is None and _is_itself(plane, application, origin):
            refusal = "that is where the application itself listens, it would connect to itself"
        if refusal:
            raise Problem(
                Code.ORIGIN_ADDRESS,
                f"origin {origin.text(application.transport)} is not allowed: {refusal}",
                pointer=f"/origin_direct/{number}",
            )


def _check_paths(plane: Plane, connection: Connection, application: Application) -> None:
    for name in edges_in(application.extension.paths):
        if not plane.knows_edge(connection, name):
            known = ", ".join(peer.name for peer in plane.peers) or "none speaks to others (--overlay) yet"
            raise Problem(
                Code.INVALID_VALUE,
                f"x_causeway.paths: there is no edge {name!r}; edges that flows can go over: {known}",
                pointer="/x_causeway/paths",
            )


def _is_itself(plane: Plane, application: Application, origin: DirectOrigin) -> bool:
    return origin.address in plane.claimed(application) and origin.ports.overlaps(application.edge_ports)


def _check_ports(plane: Plane, application: Application) -> None:
    found = plane.claims.rival(application, plane.claimed(application))
    if found:
        other, address = plane.pieces[found[0]].application, found[1]
        raise Problem(
            Code.PORT,
            f"{application.protocol} on {address} is taken by application {other.id} ({other.dns.name}, "
            f"{other.protocol}): choose another port or edge address",
            pointer="/protocol",
        )
    for peer in plane.peers:  # flows of others come in there by tcp, datagrams by udp
        at, port = peer.socket
        on_it = (own == at or (own.is_unspecified and own.version == at.version) for own in plane.claimed(application))
        if application.edge_ports.first <= port <= application.edge_ports.last and any(on_it):
            raise Problem(
                Code.PORT,
                f"{application.transport}/{port} on {at} is where edge {peer.name} listens for other edges "
                "(--overlay): choose another port or edge address",
                pointer="/protocol",
            )
