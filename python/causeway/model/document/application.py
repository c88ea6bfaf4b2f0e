"""A document becomes an application: every documented field, its default, its rule and its error code.

What a later capability brings is refused by name until it can be obeyed: nothing is stored and ignored.
"""

from __future__ import annotations

import re
from datetime import datetime
from ipaddress import ip_address

from causeway.model.application import (
    Address,
    Application,
    Connectivity,
    Dns,
    DnsType,
    EdgeIps,
    Extension,
    Ports,
    ProxyProtocol,
    Transport,
)
from causeway.model.document.extension import parse_extension
from causeway.model.document.origins import parse_origins, parse_ports
from causeway.model.document.reading import (
    as_bool,
    as_choice,
    as_list,
    as_object,
    as_text,
    invalid,
    or_default,
    refuse_unknown,
    shown,
)
from causeway.model.document.unbuilt import refuse_unbuilt
from causeway.model.hostname import hostname
from causeway.model.problem import Code, Problem
from causeway.model.smart import not_on_paths

READ_ONLY = ("id", "created_on", "modified_on")
WRITABLE = (
    "protocol",
    "dns",
    "origin_direct",
    "origin_dns",
    "origin_port",
    "origin_worker_id",
    "ip_firewall",
    "proxy_protocol",
    "tls",
    "traffic_type",
    "edge_ips",
    "argo_smart_routing",
    "virtual_network_id",
    "x_causeway",
)
_PROTOCOL = re.compile(r"(tcp|udp)/([0-9]{1,5})(?:-([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
_MOST_EDGE_IPS = 64


def parse_application(
    body: object, *, application_id: str, zone_id: str, created_on: datetime, now: datetime
) -> Application:
    """Read a whole application (POST, PUT, and PATCH after merging). Read-only fields may be there and say nothing.

    Raises:
        Problem: with the documented code and the pointer of the field at fault.
    """
    fields = as_object(body, "")
    refuse_unknown(fields, (*WRITABLE, *READ_ONLY), "")
    transport, edge_ports = _protocol(fields.get("protocol"))
    refuse_unbuilt(fields)
    edge_ips = _edge_ips(fields.get("edge_ips"))
    proxy_protocol = _proxy_protocol(fields.get("proxy_protocol"), transport)
    origins = parse_origins(fields, transport, edge_ports)
    extension = parse_extension(fields.get("x_causeway"), transport, proxy_protocol, origins)
    return Application(
        id=application_id,
        zone_id=zone_id,
        dns=_dns(fields.get("dns"), edge_ips),
        transport=transport,
        edge_ports=edge_ports,
        origins=origins,
        edge_ips=edge_ips,
        proxy_protocol=proxy_protocol,
        ip_firewall=as_bool(fields.get("ip_firewall"), "/ip_firewall"),
        is_smart=_is_smart(fields.get("argo_smart_routing"), transport, extension),
        extension=extension,
        created_on=created_on,
        modified_on=now,
    )


def _protocol(value: object) -> tuple[Transport, Ports]:
    if isinstance(value, str) and (match := _PROTOCOL.fullmatch(value)):
        transport, first, last = match.groups()
        if ports := parse_ports(first, last):
            return Transport(transport.lower()), ports
    raise Problem(
        Code.PORT,
        f"protocol {shown(value)} is not like tcp/22, udp/53 or tcp/1000-2000 with ports from 1 to 65535",
        pointer="/protocol",
    )


def _is_smart(value: object, transport: Transport, extension: Extension) -> bool:
    pointer = "/argo_smart_routing"
    if not as_bool(value, pointer):
        return False
    if transport is Transport.UDP:
        raise Problem(Code.NOT_BUILT, "argo_smart_routing is built for tcp alone; leave it false", pointer=pointer)
    if extension.paths:
        raise invalid(pointer, "argo_smart_routing chooses the paths that x_causeway.paths says: leave one of them")
    if why := not_on_paths(extension):
        raise invalid(pointer, f"argo_smart_routing: paths {why}")
    return True


def _edge_ips(value: object) -> EdgeIps:
    if value is None:
        return EdgeIps()
    fields = as_object(value, "/edge_ips")
    refuse_unknown(fields, ("type", "connectivity", "ips"), "/edge_ips")
    kind = as_text(or_default(fields.get("type"), "dynamic"), "/edge_ips/type").lower()
    given = fields.get("ips")
    ips = as_list([] if given is None else given, "/edge_ips/ips", most=_MOST_EDGE_IPS)
    if kind == "dynamic":
        if ips:
            raise invalid("/edge_ips/ips", "edge_ips.ips goes with type static, not dynamic")
        connectivity = or_default(fields.get("connectivity"), Connectivity.ALL)
        return EdgeIps(connectivity=as_choice(connectivity, "/edge_ips/connectivity", Connectivity))
    if kind != "static":
        raise invalid("/edge_ips/type", f"edge_ips.type must be 'dynamic' or 'static', not {shown(fields.get('type'))}")
    if or_default(fields.get("connectivity"), "") != "":
        raise invalid("/edge_ips/connectivity", "edge_ips.connectivity goes with type dynamic, not static")
    if not ips:
        raise invalid("/edge_ips/ips", "edge_ips of type static needs at least one address in ips")
    return EdgeIps(static=tuple(dict.fromkeys(_address(ip, f"/edge_ips/ips/{n}") for n, ip in enumerate(ips))))


def _address(value: object, pointer: str) -> Address:
    try:
        return ip_address(as_text(value, pointer))
    except ValueError:
        raise invalid(pointer, f"{shown(value)} is not an IP address") from None


def _dns(value: object, edge_ips: EdgeIps) -> Dns:
    fields = as_object({} if value is None else value, "/dns")
    refuse_unknown(fields, ("type", "name"), "/dns")
    given = fields.get("name")
    name = hostname(given) if isinstance(given, str) else None
    if name is None:
        raise invalid(
            "/dns/name",
            f"dns.name {shown(given)} is not a hostname such as ssh.example.net (other scripts as punycode)",
        )
    fitting = DnsType.ADDRESS if edge_ips.is_static else DnsType.CNAME
    kind = as_choice(or_default(fields.get("type"), fitting), "/dns/type", DnsType)
    if kind is not fitting:
        mode = "static" if edge_ips.is_static else "dynamic"
        raise Problem(
            Code.DNS_TYPE,
            f"dns.type {kind} does not fit {mode} edge_ips: CNAME goes with dynamic, ADDRESS with static",
            pointer="/dns/type",
        )
    return Dns(kind, name)


def _proxy_protocol(value: object, transport: Transport) -> ProxyProtocol:
    chosen = as_choice(or_default(value, ProxyProtocol.OFF), "/proxy_protocol", ProxyProtocol)
    misfits = {ProxyProtocol.V1: Transport.UDP, ProxyProtocol.SIMPLE: Transport.TCP}
    if misfits.get(chosen) is transport:
        raise invalid(
            "/proxy_protocol",
            f"proxy_protocol {chosen} is not for {transport}: v1 is for tcp, simple for udp, v2 for both",
        )
    return chosen
