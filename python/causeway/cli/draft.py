"""From what was typed to the application that is asked of the server. Pure.

Adds only what the operator would have typed anyway (scheme, ports, zone); what is allowed, the server says.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from causeway.cli.presets import PRESETS, Preset, PresetName
from causeway.cli.problems import Misuse

if TYPE_CHECKING:
    from causeway.cli.flags import ApplicationFlags

READ_ONLY = ("id", "created_on", "modified_on")
DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ms|s|m|h|d)?")
UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}

Body = dict[str, object]


def duration_s(text: str, option: str) -> float | int:
    """Read 30, 1.5s, 500ms, 5m, 1h or off as seconds."""
    if text == "off":
        return 0
    found = DURATION.fullmatch(text.strip().lower())
    if not found:
        raise Misuse(f"{option} {text!r} is not a duration like 500ms, 30s, 5m, 1h or off")
    seconds = round(float(found[1]) * UNIT_S[found[2] or "s"], 3)
    return int(seconds) if seconds.is_integer() else seconds


def origin_uri(text: str, transport: str, ports: str | None) -> str:
    """Complete ADDR, ADDR:PORTS or a URI to the form the API takes."""
    if "://" in text:
        return text
    address, given = _split_origin(text)
    chosen = given or ports
    if not chosen:
        raise Misuse(f"--origin {text!r} has no port, and there is no --protocol to take it from")
    try:
        parsed = ipaddress.ip_address("127.0.0.1" if address == "localhost" else address)
    except ValueError as error:
        raise Misuse(
            f"--origin {text!r} is not an address; for a name: --origin-dns {address} --origin-port {chosen}"
        ) from error
    return f"{transport}://[{parsed}]:{chosen}" if parsed.version == 6 else f"{transport}://{parsed}:{chosen}"


def _split_origin(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        return address, rest.removeprefix(":") or None
    if text.count(":") > 1:
        return text, None
    address, _, ports = text.partition(":")
    return address, ports or None


def hostname(name: str, zone: str) -> str:
    """Complete a bare label with the zone; @ is the zone itself."""
    if name == "@":
        return zone
    return name if "." in name else f"{name}.{zone}"


def requested(flags: ApplicationFlags, protocol: str | None, default_ports: str | None) -> Body:
    """Return the fields that the flags mention, in the shape of the API."""
    transport, _, ports = (protocol or "").partition("/")
    origin_dns = _given(
        type=flags.origin_dns_type,
        name=flags.origin_dns,
        ttl=None if flags.origin_dns_ttl is None else duration_s(flags.origin_dns_ttl, "--origin-dns-ttl"),
    )
    fields = _given(
        protocol=protocol,
        origin_direct=None
        if flags.origin is None
        else [origin_uri(text, transport or "tcp", default_ports or ports or None) for text in flags.origin],
        origin_dns=origin_dns or None,
        origin_port=_port(flags.origin_port),
        proxy_protocol=None if flags.proxy_protocol is None else str(flags.proxy_protocol),
        edge_ips=_edge_ips(flags),
        ip_firewall=flags.ip_firewall,
        traffic_type=flags.traffic_type,
        tls=flags.tls,
        argo_smart_routing=flags.argo_smart_routing,
        virtual_network_id=flags.virtual_network_id,
    )
    if extensions := _extensions(flags):
        fields["x_causeway"] = extensions
    return fields


def merged(base: Mapping[str, object], changes: Mapping[str, object]) -> Body:
    """Lay changes over a body. One kind of origin replaces the other; extensions and origin_dns merge."""
    result = {key: value for key, value in base.items() if key not in READ_ONLY and value is not None}
    if "origin_direct" in changes and "origin_dns" not in changes:
        result.pop("origin_dns", None)
        result.pop("origin_port", None)
    if "origin_dns" in changes and "origin_direct" not in changes:
        result.pop("origin_direct", None)
    for key, value in changes.items():
        old = result.get(key)
        is_joined = key in ("x_causeway", "origin_dns") and isinstance(old, dict) and isinstance(value, dict)
        result[key] = {**old, **value} if is_joined else value  # type: ignore[dict-item]
    return result


def with_dns(body: Body, name: str) -> Body:
    """Name the application; the record's type follows from its edge addresses."""
    edge_ips = body.get("edge_ips")
    is_static = isinstance(edge_ips, dict) and edge_ips.get("type") == "static"
    return {"dns": {"type": "ADDRESS" if is_static else "CNAME", "name": name}, **_without(body, "dns")}


def without(body: Body, names: Sequence[str]) -> Body:
    """Drop fields by name, `x_causeway.drain_s` style for those inside another, so that defaults return."""
    result = dict(body)
    for name in names:
        outer, _, inner = name.partition(".")
        held = result.get(outer)
        if inner and isinstance(held, dict) and inner in held:
            result[outer] = _without(held, inner)
        elif not inner and outer in result:
            del result[outer]
        else:
            raise Misuse(f"--unset {name!r} is not a field of this application; see `causeway apps show -o json`")
    return result


def new_bodies(flags: ApplicationFlags, preset_name: PresetName | None, zone: str) -> list[Body]:
    """Return one body per protocol, each complete but for what the server defaults."""
    preset = PRESETS[preset_name] if preset_name else None
    protocols = flags.protocol or list(preset.protocols if preset else ())
    if not protocols:
        raise Misuse("say what to serve: --protocol tcp/22, --preset ssh, or -f FILE")
    if not flags.origin and not flags.origin_dns:
        raise Misuse("say where it goes: --origin ADDR[:PORT], or --origin-dns NAME with --origin-port")
    if not flags.dns and not preset_name:
        raise Misuse(f"say its hostname: --dns NAME, for example --dns app.{zone}")
    name = hostname(flags.dns or str(preset_name), zone)
    return [_from_flags(flags, protocol, preset, name) for protocol in protocols]


def _from_flags(flags: ApplicationFlags, protocol: str, preset: Preset | None, name: str) -> Body:
    transport, _, ports = protocol.partition("/")
    default_ports = preset.protocols[0].partition("/")[2] if preset else ports
    fields = requested(flags, protocol, default_ports)
    if "origin_dns" in fields and "origin_port" not in fields and fields["origin_dns"].get("type") != "SRV":  # type: ignore[attr-defined]
        fields["origin_port"] = _port(default_ports)
    suited = {
        k: v for k, v in (preset.extensions if preset else {}).items() if transport == "udp" or not k.startswith("udp_")
    }
    return with_dns(merged({"x_causeway": suited} if suited else {}, fields), name)


def document_body(document: Body, flags: ApplicationFlags, zone: str, *, is_only_one: bool) -> Body:
    """Return the application of a file with the flags laid over it."""
    if not is_only_one and (flags.dns or flags.protocol or flags.origin):
        raise Misuse("the file holds several applications: --dns, --protocol and --origin cannot fit them all")
    body = changed_body(document, flags, zone)
    dns = body.get("dns")
    if isinstance(dns, str):  # `dns = "ssh.example.net"` is enough in a file
        return with_dns(body, dns)
    return body


def changed_body(application: Mapping[str, object], flags: ApplicationFlags, zone: str) -> Body:
    """Return the application with the flags laid over it; the type of its record stays."""
    if flags.protocol and len(flags.protocol) > 1:
        raise Misuse("one application has one --protocol")
    protocol = flags.protocol[0] if flags.protocol else _text(application.get("protocol"))
    body = merged(application, requested(flags, protocol, None))
    if not flags.dns:
        return body
    name, dns = hostname(flags.dns, zone), body.get("dns")
    return body | {"dns": {**dns, "name": name}} if isinstance(dns, dict) else with_dns(body, name)


def limit(text: str) -> Body:
    """Read OF,AMOUNT=N,... as one of `x_causeway.limits`; which amounts there are, the server says."""
    of, *amounts = (part.strip() for part in text.split(","))
    body: Body = {"of": of}
    for amount in amounts:
        name, _, value = amount.partition("=")
        if name == "ban":
            body["ban_s"] = duration_s(value, "--limit ban=")
        elif value.isascii() and value.isdigit():
            body[name] = int(value)
        else:
            raise Misuse(f"--limit {text!r}: {amount!r} is no amount like connections=20 or ban=60s")
    return body


def _limits(flags: ApplicationFlags) -> list[Body] | None:
    if flags.limits is None:
        return None
    return [] if flags.limits == ["off"] else [limit(text) for text in flags.limits]


def _paths(flags: ApplicationFlags) -> list[list[str]] | None:
    """`direct` alone is what it is without any."""
    if flags.path is None or flags.path == ["direct"]:
        return None if flags.path is None else []
    return [[] if text == "direct" else [name.strip() for name in text.split(",")] for text in flags.path]


def _minecraft(flags: ApplicationFlags) -> Body | None:
    cache = flags.minecraft_status_cache
    given = _given(
        status_cache_s=None if cache is None else duration_s(cache, "--minecraft-status-cache"),
        joins_per_s=flags.minecraft_joins,
        challenge=flags.minecraft_challenge,
    )
    return given or None


def _extensions(flags: ApplicationFlags) -> Body:
    durations = {
        f"{field}_s": duration_s(text, f"--{field.replace('_', '-')}")
        for field in (
            "proxy_header_timeout",
            "connect_timeout",
            "idle_timeout",
            "half_close_timeout",
            "no_progress_timeout",
            "udp_idle_timeout",
            "drain",
        )
        if (text := getattr(flags, field)) is not None
    }
    return durations | _given(
        name=flags.name,
        proxy_protocol_from=flags.proxy_from,
        udp_header=flags.udp_header,
        carrier=flags.carrier,
        balance=flags.balance,
        weights=flags.weights,
        transparent=flags.transparent,
        mitigation=flags.mitigation,
        logins=flags.logins,
        limits=_limits(flags),
        paths=_paths(flags),
        minecraft=_minecraft(flags),
        on_delete=flags.on_delete,
    )


def _edge_ips(flags: ApplicationFlags) -> Body | None:
    if flags.edge_ip and flags.edge_connectivity:
        raise Misuse("--edge-ip names addresses, --edge-connectivity takes a family: give one of them")
    if flags.edge_ip:
        return {"type": "static", "ips": list(flags.edge_ip)}
    return {"type": "dynamic", "connectivity": flags.edge_connectivity} if flags.edge_connectivity else None


def _port(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


def _given(**fields: object) -> Body:
    return {key: value for key, value in fields.items() if value is not None}


def _without(body: Mapping[str, object], name: str) -> Body:
    return {key: value for key, value in body.items() if key != name}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
