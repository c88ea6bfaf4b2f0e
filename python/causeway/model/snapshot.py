"""The desired state of one edge as canonical JSON: what the engine's `snapshot.rs` reads.

Pure. An application is encoded once per change; a snapshot joins the encoded pieces, so that changing one of
thousands costs one encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address

import msgspec

from causeway.model.access_rule import Compiled, Scope, Target, prefix_of
from causeway.model.application import (
    Address,
    Application,
    Balance,
    Carrier,
    DirectOrigin,
    NamedOrigin,
    Network,
    Ports,
    Sensitivity,
)
from causeway.model.limit import Limit
from causeway.model.minecraft import Minecraft

FORMAT = 1
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for the whole edge."""

    origin_deny: tuple[Network, ...] = ()
    origin_deny_sockets: tuple[tuple[Address, int], ...] = ()
    allow_loopback_origins: bool = False
    resolvers: tuple[tuple[Address, int], ...] = ()
    source_addresses: tuple[Address, ...] = ()  # where origins are reached from; none: the kernel chooses
    mitigation: bool = True  # automatic


def encode_application(application: Application, edge_addresses: tuple[Address, ...]) -> bytes:
    """One element of the snapshot's `applications`."""
    extension = application.extension
    return _encode(
        {
            "id": application.id,
            "name": extension.name or application.dns.name,
            "protocol": application.transport.value,
            "edge_addresses": [str(address) for address in edge_addresses],
            "edge_ports": _ports(application.edge_ports),
            "origins": _origins(application.origins),
            "proxy_protocol": application.proxy_protocol.value,
            "udp_header": extension.udp_header,
            "proxy_protocol_from": [str(network) for network in extension.proxy_protocol_from],
            "proxy_header_timeout_ms": _ms(extension.proxy_header_timeout_s),
            "connect_timeout_ms": _ms(extension.connect_timeout_s),
            "idle_timeout_ms": _ms(extension.idle_timeout_s),
            "half_close_timeout_ms": _ms(extension.half_close_timeout_s),
            "no_progress_timeout_ms": _ms(extension.no_progress_timeout_s),
            "udp_idle_timeout_ms": _ms(extension.udp_idle_timeout_s),
            "on_delete": extension.on_delete,
            "drain_ms": _ms(extension.drain_s),
            **({} if extension.carrier is Carrier.AUTO else {"carrier": extension.carrier}),
            **({"transparent": True} if extension.transparent else {}),
            **({} if extension.balance is Balance.ORDER else {"balance": extension.balance}),
            **({"weights": extension.weights} if extension.weights else {}),
            **({"firewall": application.zone_id} if application.ip_firewall else {}),
            **({"minecraft": _minecraft(extension.minecraft)} if extension.minecraft else {}),
            **({"limits": [_limit(limit) for limit in extension.limits]} if extension.limits else {}),
            **({} if extension.mitigation is Sensitivity.MEDIUM else {"mitigation": extension.mitigation}),
            **({"logins": True} if application.takes_logins else {}),
        }
    )


class _Place(msgspec.Struct, frozen=True):
    edge_addresses: list[str] = []


class _Places(msgspec.Struct, frozen=True):
    applications: list[_Place] = []


_places = msgspec.json.Decoder(_Places)


def edge_addresses(snapshot: bytes) -> frozenset[Address]:
    """Where a snapshot has the edge serve anybody; of one that the engine would refuse, nowhere."""
    try:
        found = {text for place in _places.decode(snapshot).applications for text in place.edge_addresses}
        return frozenset(ip_address(text) for text in found)
    except (msgspec.MsgspecError, ValueError):
        return frozenset()


_ADDRESSES = b'"edge_addresses":['


def at_addresses(encoded: bytes, edge_addresses: Iterable[Address]) -> bytes:
    """An encoded application at other addresses: encoding it anew for each edge takes some thirty times as long."""
    head, key, rest = encoded.partition(_ADDRESSES)  # quotes within a string are escaped: it stands there once
    addresses = b",".join(b'"%s"' % str(address).encode() for address in edge_addresses)
    return head + key + addresses + b"]" + rest.partition(b"]")[2]


def _minecraft(minecraft: Minecraft) -> dict[str, object]:
    return {
        "status_cache_ms": _ms(minecraft.status_cache_s),
        "joins_per_s": minecraft.joins_per_s,
        "challenge": minecraft.challenge,
    }


def _limit(limit: Limit) -> dict[str, object]:
    return {
        "of": limit.of.value,
        "ipv4": limit.ipv4_prefix,
        "ipv6": limit.ipv6_prefix,
        "open": limit.open,
        "new_per_s": limit.new_per_s,
        "datagrams_per_s": limit.datagrams_per_s,
        **({"bytes_per_s": limit.bytes_per_s} if limit.bytes_per_s else {}),
        "ban_ms": _ms(limit.ban_s),
    }


def encode_firewall(
    zone_id: str, scopes: Iterable[Scope], lists: Mapping[str, str], databases: Mapping[Target, str]
) -> bytes:
    """One element of the snapshot's `firewalls`. `lists` and `databases` are digests, by name and by target."""

    def rule(of: Compiled) -> dict[str, object]:
        target: dict[str, object]
        match of.target:
            case Target.LIST:
                target = {"list": lists[of.value]}
            case Target.ASN:
                target = {"asn": int(of.value.removeprefix("AS"))}
            case Target.COUNTRY:
                target = {"country": of.value}
            case _:
                target = {"prefix": prefix_of(of.target, of.value)}
        return {"id": of.id, "action": of.action, "target": target}

    told = [
        {
            **({"application": scope.application} if scope.application else {}),
            **({"ports": _ports(scope.ports)} if scope.ports else {}),
            **({"dry_run": True} if scope.is_dry_run else {}),
            "rules": [rule(one) for one in scope.rules],
        }
        for scope in scopes
    ]
    digests = {target.value: databases[target] for target in (Target.ASN, Target.COUNTRY) if target in databases}
    return _encode({"id": zone_id, **({"scopes": told} if told else {}), **(digests if told else {})})


def encode_snapshot(
    version: int,
    settings: Settings,
    applications: Iterable[bytes],
    firewalls: Iterable[bytes] = (),
    asn: str | None = None,
    overlay: bytes | None = None,
) -> bytes:
    """The whole document, keys sorted. `overlay`: what the edge is to others, if it speaks to any.

    `firewalls` are those that applications name, `asn` the digest of the database for limits by AS number.
    """
    sources = [str(address) for address in settings.source_addresses]
    head = _encode(
        {
            "origin_deny": [str(network) for network in settings.origin_deny],
            "origin_deny_sockets": [socket_text(*socket) for socket in settings.origin_deny_sockets],
            "allow_loopback_origins": settings.allow_loopback_origins,
            "resolvers": [socket_text(*socket) for socket in settings.resolvers],
            **({"source_addresses": sources} if sources else {}),
            **({} if settings.mitigation else {"mitigation": False}),
        }
    )
    body, walls = b",".join(applications), b",".join(firewalls)
    rules = b'"firewalls":[%s],' % walls if walls else b""
    numbers = b'"asn":%s,' % _encode(asn) if asn else b""
    others = b'"overlay":%s,' % overlay if overlay else b""
    form = b'{"applications":[%s],%s%s"format":%d,%s"settings":%s,"version":%d}'
    return form % (body, numbers, rules, FORMAT, others, head, version)


def content_digest(snapshot: bytes) -> str:
    """SHA-256 of all that it says but its version: the same for what an edge serves before a change and after a way
    back."""
    return sha256(snapshot.rpartition(b',"version":')[0]).hexdigest()


def socket_text(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _ports(ports: Ports) -> dict[str, int]:
    return {"first": ports.first, "last": ports.last}


def _origins(origins: tuple[DirectOrigin, ...] | NamedOrigin) -> dict[str, object]:
    if isinstance(origins, NamedOrigin):
        return {
            "kind": "dns",
            "name": origins.name,
            "family": origins.family.value.lower() or "any",
            "ttl_s": origins.ttl_s,
            "ports": _ports(origins.ports),
        }
    return {
        "kind": "addresses",
        "addresses": [{"address": str(origin.address), "ports": _ports(origin.ports)} for origin in origins],
    }


def _ms(seconds: float) -> int:
    """Never rounds a timeout that is on down to 0, which would mean off."""
    return max(1, round(seconds * 1000)) if seconds > 0 else 0
