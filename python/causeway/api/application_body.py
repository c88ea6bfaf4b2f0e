"""An application's JSON, in and out: every documented field, its default, its rule and its error code.

What a later capability brings is refused by name until it can be obeyed: nothing is stored and ignored.
"""

from __future__ import annotations

import re
from datetime import datetime
from ipaddress import ip_address
from uuid import UUID

from causeway.api.reading import (
    Body,
    as_bool,
    as_choice,
    as_list,
    as_object,
    as_seconds,
    as_text,
    invalid,
    refuse_unknown,
    shown,
)
from causeway.api.timestamps import rfc3339
from causeway.model.application import (
    Address,
    Application,
    Connectivity,
    DirectOrigin,
    Dns,
    DnsType,
    EdgeIps,
    Extension,
    NamedOrigin,
    OriginFamily,
    Ports,
    ProxyProtocol,
    Transport,
)
from causeway.model.hostname import hostname
from causeway.model.origin_policy import parse_network
from causeway.model.problem import Code, Problem

READ_ONLY = ("id", "created_on", "modified_on")
WRITABLE = (
    "protocol",
    "dns",
    "origin_direct",
    "origin_dns",
    "origin_port",
    "ip_firewall",
    "proxy_protocol",
    "tls",
    "traffic_type",
    "edge_ips",
    "argo_smart_routing",
    "virtual_network_id",
    "x_causeway",
)
MOST_ORIGINS = 64
LEAST_TTL_S, DEFAULT_TTL_S, MOST_TTL_S = 5, 600, 86_400
_PROTOCOL = re.compile(r"(tcp|udp)/(\d{1,5})(?:-(\d{1,5}))?", re.IGNORECASE)
_ORIGIN = re.compile(r"(tcp|udp)://(\[[^\]]*\]|[^\[\]/:]*|[0-9a-fA-F:.]+):(\d{1,5})(?:-(\d{1,5}))?", re.IGNORECASE)
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def parse_application(
    body: object, *, application_id: str, zone_id: str, created_on: datetime, now: datetime
) -> Application:
    """Read a whole application (POST, PUT, and PATCH after merging).

    Raises:
        Problem: with the documented code and the pointer of the field at fault.
    """
    fields = as_object(body, "")
    refuse_unknown(fields, (*WRITABLE, *READ_ONLY), "")
    transport, edge_ports = _protocol(fields.get("protocol"))
    _refuse_unbuilt(fields)
    edge_ips = _edge_ips(fields.get("edge_ips"))
    dns = _dns(fields.get("dns"), edge_ips)
    origins = _origins(fields, transport, edge_ports)
    return Application(
        id=application_id,
        zone_id=zone_id,
        dns=dns,
        transport=transport,
        edge_ports=edge_ports,
        origins=origins,
        edge_ips=edge_ips,
        proxy_protocol=_proxy_protocol(fields.get("proxy_protocol", "off"), transport),
        ip_firewall=_ip_firewall(fields.get("ip_firewall", False)),
        extension=_extension(fields.get("x_causeway"), transport),
        created_on=created_on,
        modified_on=now,
    )


def show_application(application: Application) -> dict[str, object]:
    """The application as the API answers it; `x_causeway` only where something in it was set."""
    shown_as: dict[str, object] = {
        "id": application.id,
        "protocol": application.protocol,
        "dns": {"type": application.dns.type.value, "name": application.dns.name},
    }
    if isinstance(application.origins, NamedOrigin):
        origin = application.origins
        shown_as["origin_dns"] = {"type": origin.family.value, "name": origin.name, "ttl": origin.ttl_s}
        shown_as["origin_port"] = origin.ports.first if len(origin.ports) == 1 else str(origin.ports)
    else:
        shown_as["origin_direct"] = [origin.text(application.transport) for origin in application.origins]
    edge = application.edge_ips
    shown_as |= {
        "ip_firewall": application.ip_firewall,
        "proxy_protocol": application.proxy_protocol.value,
        "tls": "off",
        "traffic_type": "direct",
        "edge_ips": {"type": "static", "ips": [str(ip) for ip in edge.static]}
        if edge.is_static
        else {"type": "dynamic", "connectivity": edge.connectivity.value},
        "argo_smart_routing": False,
        "created_on": rfc3339(application.created_on),
        "modified_on": rfc3339(application.modified_on),
    }
    if extension := show_extension(application.extension):
        shown_as["x_causeway"] = extension
    return shown_as


def show_extension(extension: Extension) -> dict[str, object]:
    """What differs from the defaults."""
    plain = Extension()
    changed = {name: getattr(extension, name) for name in Extension.__slots__}
    changed = {name: value for name, value in changed.items() if value != getattr(plain, name)}
    if "proxy_protocol_from" in changed:
        changed["proxy_protocol_from"] = [str(network) for network in extension.proxy_protocol_from]
    return changed


def merge(before: Application, patch: object) -> dict[str, object]:
    """The body a PATCH amounts to: fields given replace, `null` resets to the default, `x_causeway` merges."""
    changes = as_object(patch, "")
    refuse_unknown(changes, (*WRITABLE, *READ_ONLY), "")
    merged = show_application(before)
    if "origin_direct" in changes and changes["origin_direct"] is not None:
        merged.pop("origin_dns", None)
        merged.pop("origin_port", None)
    if "origin_dns" in changes and changes["origin_dns"] is not None:
        merged.pop("origin_direct", None)
    for name, value in changes.items():
        if name == "x_causeway" and value is not None:
            kept = as_object(merged.get("x_causeway", {}), "/x_causeway")
            combined = {**kept, **as_object(value, "/x_causeway")}
            merged[name] = {key: item for key, item in combined.items() if item is not None}
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def _protocol(value: object) -> tuple[Transport, Ports]:
    if isinstance(value, str) and (match := _PROTOCOL.fullmatch(value)):
        transport, first, last = match.groups()
        ports = _ports(first, last)
        if ports:
            return Transport(transport.lower()), ports
    raise Problem(
        Code.PORT,
        f"protocol {shown(value)} is not like tcp/22, udp/53 or tcp/1000-2000 with ports from 1 to 65535",
        pointer="/protocol",
    )


def _ports(first: str, last: str | None) -> Ports | None:
    low, high = int(first), int(last or first)
    return Ports(low, high) if 1 <= low <= high <= 65_535 else None


def _refuse_unbuilt(fields: Body) -> None:
    unbuilt = (
        ("tls", "off", "TLS modes other than off"),
        ("traffic_type", "direct", "traffic types other than direct"),
    )
    for name, only, what in unbuilt:
        value = fields.get(name)
        if value is not None and as_text(value, f"/{name}").lower() != only:
            raise Problem(
                Code.NOT_BUILT,
                f"{name} {shown(value)}: {what} are not built yet; leave it {only!r}",
                pointer=f"/{name}",
            )
    argo = fields.get("argo_smart_routing")
    if argo is not None and as_bool(argo, "/argo_smart_routing"):
        raise Problem(
            Code.NOT_BUILT,
            "argo_smart_routing: smart routing is not built yet; leave it false",
            pointer="/argo_smart_routing",
        )
    if fields.get("virtual_network_id") not in (None, ""):
        _virtual_network(fields)


def _virtual_network(fields: Body) -> None:
    pointer, value = "/virtual_network_id", fields["virtual_network_id"]
    try:
        UUID(as_text(value, pointer))
    except ValueError:
        raise Problem(
            Code.VIRTUAL_NETWORK_ID, f"virtual_network_id {shown(value)} is not a UUID", pointer=pointer
        ) from None
    origins = fields.get("origin_direct")
    if not origins:
        raise Problem(Code.VIRTUAL_NETWORK_ORIGIN, "virtual_network_id needs origin_direct", pointer="/origin_direct")
    if not isinstance(origins, list) or len(origins) != 1:
        raise Problem(
            Code.VIRTUAL_NETWORK_SINGLE,
            "virtual_network_id needs exactly one origin",
            pointer="/origin_direct",
        )
    if "-" in str(fields.get("protocol", "")) or "-" in str(origins[0]).rpartition(":")[2]:
        raise Problem(
            Code.VIRTUAL_NETWORK_RANGE,
            "virtual_network_id needs a single port, not a range",
            pointer="/protocol",
        )
    raise Problem(
        Code.VIRTUAL_NETWORK_ROUTE,
        f"no route to a virtual network {value}: virtual networks are not built yet; leave virtual_network_id out",
        pointer=pointer,
    )


def _edge_ips(value: object) -> EdgeIps:
    if value is None:
        return EdgeIps()
    fields = as_object(value, "/edge_ips")
    refuse_unknown(fields, ("type", "connectivity", "ips"), "/edge_ips")
    kind = as_text(fields.get("type", "dynamic"), "/edge_ips/type").lower()
    if kind == "dynamic":
        if fields.get("ips"):
            raise invalid("/edge_ips/ips", "edge_ips.ips goes with type static, not dynamic")
        connectivity = fields.get("connectivity") or "all"
        return EdgeIps(connectivity=as_choice(connectivity, "/edge_ips/connectivity", Connectivity))
    if kind != "static":
        raise invalid(
            "/edge_ips/type", f"/edge_ips/type must be 'dynamic' or 'static', not {shown(fields.get('type'))}"
        )
    ips = as_list(fields.get("ips") or [], "/edge_ips/ips", most=64)
    if not ips:
        raise invalid("/edge_ips/ips", "edge_ips of type static needs at least one address in ips")
    static = tuple(dict.fromkeys(_address(ip, f"/edge_ips/ips/{n}") for n, ip in enumerate(ips)))
    return EdgeIps(static=static)


def _address(value: object, pointer: str) -> Address:
    try:
        return ip_address(as_text(value, pointer))
    except ValueError:
        raise invalid(pointer, f"{shown(value)} is not an IP address") from None


def _dns(value: object, edge_ips: EdgeIps) -> Dns:
    fields = as_object(value if value is not None else {}, "/dns")
    refuse_unknown(fields, ("type", "name"), "/dns")
    if not fields.get("name"):
        raise invalid("/dns/name", "dns.name is needed: the hostname of the application, such as ssh.example.net")
    name = hostname(as_text(fields["name"], "/dns/name"))
    if name is None:
        raise invalid("/dns/name", f"{shown(fields['name'])} is not a hostname")
    fitting = DnsType.ADDRESS if edge_ips.is_static else DnsType.CNAME
    kind = as_choice(fields.get("type") or fitting, "/dns/type", DnsType)
    if kind is not fitting:
        mode = "static" if edge_ips.is_static else "dynamic"
        raise Problem(
            Code.DNS_TYPE,
            f"dns.type {kind} does not fit {mode} edge_ips: CNAME goes with dynamic, ADDRESS with static",
            pointer="/dns/type",
        )
    return Dns(kind, name)


def _origins(fields: Body, transport: Transport, edge_ports: Ports) -> tuple[DirectOrigin, ...] | NamedOrigin:
    direct, named = fields.get("origin_direct"), fields.get("origin_dns")
    if bool(direct) == bool(named):
        told = "both were given" if direct else "neither was given"
        raise Problem(
            Code.ORIGIN_CHOICE,
            f"exactly one of origin_direct and origin_dns is needed, {told}",
            pointer="/origin_direct",
        )
    if direct:
        if fields.get("origin_port") not in (None, 0, ""):
            raise Problem(
                Code.ORIGIN_CHOICE,
                "origin_port goes with origin_dns; origin_direct has its ports inside",
                pointer="/origin_port",
            )
        entries = as_list(direct, "/origin_direct", most=MOST_ORIGINS)
        return tuple(_direct(entry, transport, edge_ports, f"/origin_direct/{n}") for n, entry in enumerate(entries))
    return _named(as_object(named, "/origin_dns"), fields.get("origin_port"), edge_ports)


def _direct(value: object, transport: Transport, edge_ports: Ports, pointer: str) -> DirectOrigin:
    def refused(why: str) -> Problem:
        return Problem(Code.ORIGIN_ADDRESS, f"origin {shown(value)}: {why}", pointer=pointer)

    match = _ORIGIN.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise refused(
            f"it must look like {transport}://192.0.2.1:22, {transport}://[2001:db8::1]:22 or end in a range such as :3000-4000"
        )
    scheme, host, first, last = match.groups()
    if scheme.lower() != transport:
        raise refused(f"its scheme does not fit the protocol, which is {transport}")
    ports = _ports(first, last)
    if ports is None:
        raise refused("its port is not from 1 to 65535, or its range goes backwards")
    is_bracketed = host.startswith("[")
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        raise refused("origin_direct takes IP addresses; for a name use origin_dns") from None
    if (address.version == 6) != is_bracketed:
        raise refused("an IPv6 address goes in brackets, an IPv4 address without")
    if "%" in host:
        raise refused("a zone index is not allowed")
    _check_length(edge_ports, ports, pointer, Code.ORIGIN_ADDRESS)
    return DirectOrigin(address, ports)


def _check_length(edge: Ports, origin: Ports, pointer: str, code: Code) -> None:
    if len(edge) != len(origin):
        raise Problem(
            code,
            f"{len(edge)} edge ports ({edge}) cannot map to {len(origin)} origin ports ({origin}): both ranges need the same length",
            pointer=pointer,
        )


def _named(fields: Body, port: object, edge_ports: Ports) -> NamedOrigin:
    def refused(pointer: str, why: str) -> Problem:
        return Problem(Code.ORIGIN_DNS, why, pointer=pointer)

    refuse_unknown(fields, ("name", "type", "ttl"), "/origin_dns")
    kind = fields.get("type") or ""
    if isinstance(kind, str) and kind.upper() == "SRV":
        raise Problem(
            Code.NOT_BUILT,
            "origin_dns.type SRV is not built yet: use A, AAAA or leave it empty for both",
            pointer="/origin_dns/type",
        )
    family = as_choice(kind, "/origin_dns/type", OriginFamily)
    given = fields.get("name")
    name = hostname(given) if isinstance(given, str) else None
    if name is None:
        raise refused("/origin_dns/name", f"origin_dns.name {shown(given)} is not a hostname")
    ttl = fields.get("ttl")
    ttl = DEFAULT_TTL_S if ttl is None else ttl
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not LEAST_TTL_S <= ttl <= MOST_TTL_S:
        raise refused(
            "/origin_dns/ttl",
            f"origin_dns.ttl {shown(ttl)} is not from {LEAST_TTL_S} to {MOST_TTL_S} seconds",
        )
    text = str(port) if isinstance(port, int | str) and not isinstance(port, bool) else ""
    match = _PORTS.fullmatch(text)
    ports = _ports(*match.groups()) if match else None
    if ports is None:
        raise refused(
            "/origin_port",
            f'origin_port {shown(port)} must be a port from 1 to 65535 or a range such as "3000-4000"; origin_dns needs it',
        )
    _check_length(edge_ports, ports, "/origin_port", Code.ORIGIN_DNS)
    return NamedOrigin(name, family, ttl, ports)


def _proxy_protocol(value: object, transport: Transport) -> ProxyProtocol:
    chosen = as_choice(value if value is not None else "off", "/proxy_protocol", ProxyProtocol)
    if (chosen is ProxyProtocol.V1 and transport is Transport.UDP) or (
        chosen is ProxyProtocol.SIMPLE and transport is Transport.TCP
    ):
        raise invalid(
            "/proxy_protocol",
            f"proxy_protocol {chosen} is not for {transport}: v1 is for TCP, simple for UDP, v2 for both",
        )
    return chosen


def _ip_firewall(value: object) -> bool:
    if as_bool(value if value is not None else False, "/ip_firewall"):
        raise Problem(
            Code.NOT_BUILT,
            "ip_firewall: the IP firewall is not built yet; leave it false",
            pointer="/ip_firewall",
        )
    return False


def _extension(value: object, transport: Transport) -> Extension:
    if value is None:
        return Extension()
    pointer = "/x_causeway"
    fields = as_object(value, pointer)
    refuse_unknown(fields, Extension.__slots__, pointer)
    given: dict[str, object] = {name: item for name, item in fields.items() if item is not None}
    read: dict[str, object] = {}
    least = {"proxy_header_timeout_s": 0.001, "connect_timeout_s": 0.001, "udp_idle_timeout_s": 0.001}
    choices = {
        "udp_header": ("first", "every"),
        "carrier": ("auto", "engine"),
        "on_delete": ("drain", "close"),
    }
    for name, item in given.items():
        at = f"{pointer}/{name}"
        if name.endswith("_s"):
            read[name] = as_seconds(item, at, least=least.get(name, 0.0))
        elif name == "name":
            read[name] = as_text(item, at, longest=100)
        elif name == "proxy_protocol_from":
            read[name] = tuple(_network(entry, f"{at}/{n}") for n, entry in enumerate(as_list(item, at, most=1000)))
        elif name == "carrier" and item == "kernel":
            raise Problem(
                Code.NOT_BUILT,
                "x_causeway.carrier kernel: the kernel fast path is not built yet; use auto or engine",
                pointer=at,
            )
        elif item in choices[name]:
            read[name] = item
        else:
            raise invalid(at, f"{at} must be one of {', '.join(choices[name])}, not {shown(item)}")
    if transport is Transport.UDP and read.get("proxy_protocol_from"):
        raise invalid(
            f"{pointer}/proxy_protocol_from",
            "proxy_protocol_from is for TCP: a header from the client side is not read over UDP",
        )
    return Extension(**read)  # type: ignore[arg-type]


def _network(value: object, pointer: str) -> object:
    try:
        return parse_network(as_text(value, pointer))
    except (ValueError, TypeError):
        raise invalid(pointer, f"{shown(value)} is not a prefix such as 10.0.0.0/8 (host bits must be zero)") from None
