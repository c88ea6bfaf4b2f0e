"""An application becomes a document: as the API answers it, and as PATCH changes it."""

from __future__ import annotations

from collections.abc import Collection

from causeway.model.application import Application, NamedOrigin
from causeway.model.document.application import READ_ONLY, WRITABLE
from causeway.model.document.extension import show_extension
from causeway.model.document.reading import as_object, refuse_unknown
from causeway.model.smart import why_direct
from causeway.model.timestamps import rfc3339


def show_application(application: Application, smart_zones: Collection[str] = ()) -> dict[str, object]:
    """The official shape; `x_causeway` only where something in it was stated, or its zone has smart routing on."""
    document: dict[str, object] = {
        "id": application.id,
        "protocol": application.protocol,
        "dns": {"type": application.dns.type.value, "name": application.dns.name},
    }
    if isinstance(application.origins, NamedOrigin):
        origin = application.origins
        document["origin_dns"] = {"type": origin.family.value, "name": origin.name, "ttl": origin.ttl_s}
        document["origin_port"] = origin.ports.first if len(origin.ports) == 1 else str(origin.ports)
    else:
        document["origin_direct"] = [origin.text(application.transport) for origin in application.origins]
    edge = application.edge_ips
    document |= {
        "ip_firewall": application.ip_firewall,
        "proxy_protocol": application.proxy_protocol.value,
        "tls": "off",
        "traffic_type": "direct",
        "edge_ips": {"type": "static", "ips": [str(ip) for ip in edge.static]}
        if edge.is_static
        else {"type": "dynamic", "connectivity": edge.connectivity.value},
        "argo_smart_routing": application.is_smart,
        "created_on": rfc3339(application.created_on),
        "modified_on": rfc3339(application.modified_on),
    }
    extension: dict[str, object] = dict(show_extension(application.extension, application.transport))
    if application.zone_id in smart_zones:
        why = why_direct(application)
        by = "application" if application.is_smart else None if why else "zone"
        extension["smart_routing"] = {"on": by is not None, "by": by, "reason": why}
    if extension:
        document["x_causeway"] = extension
    return document


def merge(before: Application, patch: object) -> dict[str, object]:
    """The document a PATCH amounts to: a given field replaces, `null` resets to the default, `x_causeway` merges."""
    changes = as_object(patch, "")
    refuse_unknown(changes, (*WRITABLE, *READ_ONLY), "")
    merged = show_application(before)
    if changes.get("origin_direct") is not None:  # the other way to name origins goes
        merged.pop("origin_dns", None)
        merged.pop("origin_port", None)
    if changes.get("origin_dns") is not None:
        merged.pop("origin_direct", None)
    for name, value in changes.items():
        if name == "x_causeway" and value is not None:
            kept = as_object(merged.get("x_causeway", {}), "/x_causeway")
            merged[name] = {**kept, **as_object(value, "/x_causeway")}
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged
