"""The origins of a document: `origin_direct`, or `origin_dns` with `origin_port`. Whether an address is allowed
at all is `origin_policy`'s to say.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address

from causeway.model.application import DirectOrigin, NamedOrigin, OriginFamily, Ports, Transport
from causeway.model.document.reading import (
    Body,
    as_choice,
    as_list,
    as_object,
    as_whole,
    or_default,
    refuse_unknown,
    shown,
)
from causeway.model.hostname import hostname
from causeway.model.problem import Code, Problem

MOST_ORIGINS = 64
LEAST_TTL_S, DEFAULT_TTL_S, MOST_TTL_S = 5, 600, 86_400
_ORIGIN = re.compile(
    r"(tcp|udp)://(\[[^\]]*\]|[^\[\]/:]*|[0-9a-f:.]+):([0-9]{1,5})(?:-([0-9]{1,5}))?", re.IGNORECASE | re.ASCII
)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


def parse_origins(fields: Body, transport: Transport, edge_ports: Ports) -> tuple[DirectOrigin, ...] | NamedOrigin:
    """Read whichever of the two ways to name origins is there.

    Raises:
        Problem: 11000, 11001 or 11002.
    """
    direct, named = fields.get("origin_direct"), fields.get("origin_dns")
    is_direct, is_named = direct not in (None, []), named not in (None, {})
    if is_direct == is_named:
        told = "both were given" if is_direct else "neither was given"
        raise Problem(
            Code.ORIGIN_CHOICE,
            f"exactly one of origin_direct and origin_dns is needed, {told}",
            pointer="/origin_direct",
        )
    if is_named:
        return _named(as_object(named, "/origin_dns"), fields.get("origin_port"), edge_ports)
    if fields.get("origin_port") not in (None, 0, ""):
        raise Problem(
            Code.ORIGIN_CHOICE,
            f"origin_port {shown(fields['origin_port'])} goes with origin_dns; origin_direct has its ports inside",
            pointer="/origin_port",
        )
    entries = as_list(direct, "/origin_direct", most=MOST_ORIGINS)
    return tuple(_direct(entry, transport, edge_ports, f"/origin_direct/{n}") for n, entry in enumerate(entries))


def parse_ports(first: str, last: str | None) -> Ports | None:
    """Ports from 1 to 65535, or nothing if they are not."""
    low, high = int(first), int(last or first)
    return Ports(low, high) if 1 <= low <= high <= 65_535 else None


def _direct(value: object, transport: Transport, edge_ports: Ports, pointer: str) -> DirectOrigin:
    def refused(why: str) -> Problem:
        return Problem(Code.ORIGIN_ADDRESS, f"origin {shown(value)}: {why}", pointer=pointer)

    match = _ORIGIN.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise refused(
            f"it must look like {transport}://192.0.2.1:22 or {transport}://[2001:db8::1]:22, "
            "or end in a range such as :3000-4000"
        )
    scheme, host, first, last = match.groups()
    if scheme.lower() != transport:
        raise refused(f"its scheme does not fit the protocol, which is {transport}")
    ports = parse_ports(first, last)
    if ports is None:
        raise refused("its port is not from 1 to 65535, or its range goes backwards")
    is_bracketed = host.startswith("[")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise refused("origin_direct takes IP addresses in plain notation; for a name use origin_dns") from None
    if (address.version == 6) != is_bracketed:
        raise refused("an IPv6 address goes in brackets, an IPv4 address without")
    if isinstance(address, IPv6Address) and address.scope_id:
        raise refused("an address with a zone index is not allowed")
    if len(ports) != len(edge_ports):
        raise refused(_unequal(edge_ports, ports))
    return DirectOrigin(address, ports)


def _named(fields: Body, port: object, edge_ports: Ports) -> NamedOrigin:
    def refused(pointer: str, why: str) -> Problem:
        return Problem(Code.ORIGIN_DNS, why, pointer=pointer)

    refuse_unknown(fields, ("name", "type", "ttl"), "/origin_dns")
    kind = or_default(fields.get("type"), "")
    if isinstance(kind, str) and kind.upper() == "SRV":
        raise Problem(
            Code.NOT_BUILT,
            "origin_dns.type SRV is not built yet: use A, AAAA, or leave it empty for both",
            pointer="/origin_dns/type",
        )
    family = as_choice(kind, "/origin_dns/type", OriginFamily)
    given = fields.get("name")
    name = hostname(given) if isinstance(given, str) else None
    if name is None:
        raise refused("/origin_dns/name", f"origin_dns.name {shown(given)} is not a hostname")
    ttl_s = DEFAULT_TTL_S if fields.get("ttl") is None else as_whole(fields["ttl"])
    if ttl_s is None or not LEAST_TTL_S <= ttl_s <= MOST_TTL_S:
        raise refused(
            "/origin_dns/ttl",
            f"origin_dns.ttl {shown(fields['ttl'])} is not a number of seconds from {LEAST_TTL_S} to {MOST_TTL_S}",
        )
    return NamedOrigin(name, family, ttl_s, _origin_port(port, edge_ports))


def _origin_port(value: object, edge_ports: Ports) -> Ports:
    text = value if isinstance(value, str) else str(as_whole(value))
    match = _PORTS.fullmatch(text)
    ports = parse_ports(*match.groups()) if match else None
    if ports is None:
        raise Problem(
            Code.ORIGIN_DNS,
            f"origin_dns needs origin_port, a port from 1 to 65535 or a range such as '3000-4000', not {shown(value)}",
            pointer="/origin_port",
        )
    if len(ports) != len(edge_ports):
        why = _unequal(edge_ports, ports)
        raise Problem(Code.ORIGIN_DNS, f"origin_port {shown(value)}: {why}", pointer="/origin_port")
    return ports


def _unequal(edge: Ports, origin: Ports) -> str:
    return (
        f"{len(edge)} edge port(s) ({edge}) cannot map to {len(origin)} origin port(s) ({origin}), "
        "both ranges need the same length"
    )
