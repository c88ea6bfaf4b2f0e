"""Rows to values and back. The body of an application is JSON of our own, apart from any API's shape."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from causeway.model.application import (
    Application,
    Balance,
    Carrier,
    Connectivity,
    DirectOrigin,
    Dns,
    DnsType,
    EdgeIps,
    Extension,
    NamedOrigin,
    OnDelete,
    OriginFamily,
    Ports,
    ProxyProtocol,
    Sensitivity,
    Transport,
    UdpHeader,
)
from causeway.model.limit import Limit, Of
from causeway.model.minecraft import Minecraft

Row = Any


def to_row(application: Application) -> dict[str, object]:
    """The columns of `applications`."""
    return {
        "id": application.id,
        "zone_id": application.zone_id,
        "dns": application.dns.name,
        "protocol": application.protocol,
        "created_on": application.created_on.isoformat(timespec="microseconds"),
        "modified_on": application.modified_on.isoformat(timespec="microseconds"),
        "body": msgspec.json.encode(_body(application)).decode(),
    }


class RowError(Exception):
    """A row holds something that this program did not write."""


def from_row(row: Row) -> Application:
    """The application of a row of `applications`.

    Raises:
        RowError: somebody else wrote there.
    """
    try:
        return _application(row)
    except (ValueError, LookupError, TypeError) as error:  # ValueError: also of msgspec
        raise RowError(f"application {row.id} cannot be read ({error!r})") from error


def _application(row: Row) -> Application:
    body = msgspec.json.decode(row.body)
    return Application(
        id=row.id,
        zone_id=row.zone_id,
        dns=Dns(DnsType(body["dns_type"]), row.dns),
        transport=Transport(body["transport"]),
        edge_ports=Ports(*body["edge_ports"]),
        origins=_origins(body["origins"]),
        edge_ips=EdgeIps(Connectivity(body["connectivity"]), tuple(ip_address(ip) for ip in body["static"])),
        proxy_protocol=ProxyProtocol(body["proxy_protocol"]),
        ip_firewall=body["ip_firewall"],
        is_smart=body.get("is_smart", False),
        extension=_extension(body["extension"]),
        created_on=datetime.fromisoformat(row.created_on),
        modified_on=datetime.fromisoformat(row.modified_on),
    )


def _body(application: Application) -> dict[str, object]:
    origins, extension = application.origins, application.extension
    return {
        "dns_type": application.dns.type,
        "transport": application.transport,
        "edge_ports": [application.edge_ports.first, application.edge_ports.last],
        "origins": {
            "name": origins.name,
            "family": origins.family,
            "ttl_s": origins.ttl_s,
            "ports": [origins.ports.first, origins.ports.last],
        }
        if isinstance(origins, NamedOrigin)
        else [[str(origin.address), origin.ports.first, origin.ports.last] for origin in origins],
        "connectivity": application.edge_ips.connectivity,
        "static": [str(ip) for ip in application.edge_ips.static],
        "proxy_protocol": application.proxy_protocol,
        "ip_firewall": application.ip_firewall,
        **({"is_smart": True} if application.is_smart else {}),
        # Only what was stated: a default that we change later reaches applications that never named the field.
        "extension": {
            name: _kept(value) if isinstance(value, tuple) else asdict(value) if isinstance(value, Minecraft) else value
            for name in sorted(extension.stated)
            if (value := getattr(extension, name)) is not None
        },
    }


def _kept(values: tuple[object, ...]) -> list[object]:
    def kept(value: object) -> object:
        if isinstance(value, Limit):
            return asdict(value)
        return list(value) if isinstance(value, tuple) else str(value)

    return [kept(value) for value in values]


def _origins(body: Any) -> tuple[DirectOrigin, ...] | NamedOrigin:
    if isinstance(body, dict):
        return NamedOrigin(body["name"], OriginFamily(body["family"]), body["ttl_s"], Ports(*body["ports"]))
    return tuple(DirectOrigin(ip_address(address), Ports(first, last)) for address, first, last in body)


def _extension(body: dict[str, Any]) -> Extension:
    kinds: dict[str, Any] = {
        "proxy_protocol_from": lambda value: tuple(ip_network(text) for text in value),
        "udp_header": UdpHeader,
        "on_delete": OnDelete,
        "carrier": Carrier,
        "balance": Balance,
        "mitigation": Sensitivity,
        "minecraft": lambda value: Minecraft(**value),
        "paths": lambda value: tuple(tuple(path) for path in value),
        "weights": lambda value: tuple(int(text) for text in value),
        "limits": lambda value: tuple(Limit(**entry | {"of": Of(entry["of"])}) for entry in value),
    }
    read = {name: kinds[name](value) if name in kinds else value for name, value in body.items()}
    return Extension(**read, stated=frozenset(read))
