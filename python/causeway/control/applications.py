"""Create, change and delete applications."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from causeway.control.plane import Plane, now
from causeway.control.zones import zone_in
from causeway.model.application import Application, DirectOrigin, NamedOrigin
from causeway.model.claims import rival
from causeway.model.hostname import is_within
from causeway.model.problem import Code, Problem
from causeway.store import applications as stored
from causeway.store import sequences, zones

Draft = Callable[[str, datetime, datetime], Application]
"""Makes the application from its id, when it was created, and the time now."""

_REPEAT_WINDOW = timedelta(hours=24)


def create(
    plane: Plane, zone_id: str, draft: Draft, *, repeat_key: str | None = None, is_repeat: bool = False
) -> Application:
    """Create an application. A repeat of a request that has been served answers what that one made.

    Raises:
        Problem: nothing was changed.
    """
    moment = now()
    application = draft(secrets.token_hex(16), moment, moment)
    if earlier := _earlier(plane, zone_id, application, repeat_key, is_repeat=is_repeat):
        return earlier

    def write(connection: Connection) -> tuple[str, Application]:
        check(plane, connection, zone_id, application)
        stored.add(connection, application)
        if repeat_key:
            sequences.remember(connection, repeat_key, application.id, moment)
        return application.id, application

    plane.change(write)
    return application


def change(
    plane: Plane, zone_id: str, application_id: str, draft: Callable[[Application, datetime], Application]
) -> Application:
    """Replace an application by what `draft` makes of the present one.

    Raises:
        Problem: nothing was changed.
    """
    made: list[Application] = []

    def write(connection: Connection) -> tuple[str, Application]:
        before = application_in(connection, zone_id, application_id)
        after = draft(before, now())
        if after.dns.type is not before.dns.type:
            raise Problem(
                Code.DNS_TYPE,
                f"dns.type cannot change from {before.dns.type} to {after.dns.type}: delete the application and create it again",
                pointer="/dns/type",
            )
        check(plane, connection, zone_id, after)
        stored.change(connection, after)
        made.append(after)
        return application_id, after

    plane.change(write)
    return made[0]


def delete(plane: Plane, zone_id: str, application_id: str) -> None:
    """Close an application's ports at once; its connections end as its policy says."""

    def write(connection: Connection) -> tuple[str, None]:
        application_in(connection, zone_id, application_id)
        stored.remove(connection, application_id)
        return application_id, None

    plane.change(write)


def rehearse_create(plane: Plane, zone_id: str, draft: Draft) -> Application:
    """Say what `create` would make, and refuse what it would refuse, but for the edge's own answer."""
    moment = now()
    application = draft(secrets.token_hex(16), moment, moment)
    with plane.reading() as connection:
        check(plane, connection, zone_id, application)
    return application


def rehearse_change(
    plane: Plane, zone_id: str, application_id: str, draft: Callable[[Application, datetime], Application]
) -> Application:
    with plane.reading() as connection:
        before = application_in(connection, zone_id, application_id)
        after = draft(before, now())
        check(plane, connection, zone_id, after)
    return after


def application_in(connection: Connection, zone_id: str, application_id: str) -> Application:
    """The application, or the Problem that there is none."""
    zone_in(connection, zone_id)
    found = stored.find(connection, zone_id, application_id)
    if found is None:
        raise Problem(Code.NOT_FOUND, f"zone {zone_id} has no application {application_id}")
    return found


def check(plane: Plane, connection: Connection, zone_id: str, application: Application) -> None:
    """The rules that need more than the application itself."""
    zone = zone_in(connection, zone_id)
    _check_hostname(connection, application, zone.name)
    _check_edge_addresses(plane, application)
    _check_origins(plane, application)
    others = [piece.application for piece in plane.pieces.values()]
    if found := rival(application, others, plane.site.edge_addresses):
        other, address = found
        raise Problem(
            Code.PORT,
            f"{application.protocol} on {address} belongs to application {other.id} ({other.dns.name}, {other.protocol}): "
            "choose another port or another edge address",
            pointer="/protocol",
        )


def _check_hostname(connection: Connection, application: Application, zone: str) -> None:
    name = application.dns.name
    owners = [other.name for other in zones.all_names(connection) if is_within(name, other.name)]
    owner = max(owners, key=len, default=None)  # the most specific zone owns a name
    if owner == zone:
        return
    why = f"belongs to zone {owner}" if owner else f"is not within zone {zone}"
    raise Problem(Code.HOSTNAME, f"hostname {name} {why}: use a name that ends in {zone}", pointer="/dns/name")


def _check_edge_addresses(plane: Plane, application: Application) -> None:
    available = plane.site.edge_addresses
    if not application.edge_addresses(available):
        wanted = application.edge_ips.connectivity
        raise Problem(
            Code.EDGE_IP_FAMILY,
            f"edge_ips.connectivity {wanted}: this edge has no such address; start it with a fitting --edge-ip",
            pointer="/edge_ips/connectivity",
        )
    for address in application.edge_ips.static:
        if address not in available:
            known = ", ".join(str(ip) for ip in available)
            raise Problem(
                Code.EDGE_IP_NOT_OURS,
                f"static edge IP {address} is not an address of this edge ({known})",
                pointer="/edge_ips/ips",
            )
        for piece in plane.pieces.values():
            other = piece.application
            if other.zone_id != application.zone_id and address in other.edge_ips.static:
                raise Problem(
                    Code.EDGE_IP_OF_OTHER_ZONE,
                    f"static edge IP {address} is used by another zone (application {other.dns.name})",
                    pointer="/edge_ips/ips",
                )


def _check_origins(plane: Plane, application: Application) -> None:
    if isinstance(application.origins, NamedOrigin):
        return  # the engine judges each address that the name resolves to
    for number, origin in enumerate(application.origins):
        pointer = f"/origin_direct/{number}"
        ports = origin.ports
        if refusal := plane.site.origins.refusal(origin.address, ports.first, ports.last):
            text = origin.text(application.transport)
            raise Problem(Code.ORIGIN_ADDRESS, f"origin {text} is refused: {refusal}", pointer=pointer)
        if _is_itself(plane, application, origin):
            raise Problem(
                Code.ORIGIN_ADDRESS,
                f"origin {origin.address}:{ports} is the application's own address: it would connect to itself",
                pointer=pointer,
            )


def _is_itself(plane: Plane, application: Application, origin: DirectOrigin) -> bool:
    own = application.edge_addresses(plane.site.edge_addresses)
    return origin.address in own and origin.ports.overlaps(application.edge_ports)


def _earlier(
    plane: Plane, zone_id: str, application: Application, key: str | None, *, is_repeat: bool
) -> Application | None:
    """What an earlier try of the same request made: by its key, or for an announced repeat by being identical."""
    with plane.reading() as connection:
        zone_in(connection, zone_id)
    if key:
        with plane.writing() as connection:
            known = sequences.remembered(connection, key, now() - _REPEAT_WINDOW)
            return stored.find(connection, zone_id, known) if known else None
    if is_repeat:
        for piece in plane.pieces.values():
            other = piece.application
            same = replace(application, id=other.id, created_on=other.created_on, modified_on=other.modified_on)
            if same == other:
                return other
    return None
