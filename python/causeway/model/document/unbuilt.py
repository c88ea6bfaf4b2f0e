"""Fields of capabilities that are not built yet: neutral values pass, others get an error that names the field."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from causeway.model.document.reading import Body, as_choice, as_text, or_default, shown
from causeway.model.problem import Code, Problem


class Tls(StrEnum):
    OFF = "off"
    FLEXIBLE = "flexible"
    FULL = "full"
    STRICT = "strict"


class TrafficType(StrEnum):
    DIRECT = "direct"
    HTTP = "http"
    HTTPS = "https"
    WORKER = "worker"


def refuse_unbuilt(fields: Body) -> None:
    """Pass what asks for nothing.

    Raises:
        Problem: 19001 for the first field that asks for something, 11041 to 11045 for virtual networks.
    """

    def refused(name: str, what: str) -> Problem:
        return Problem(Code.NOT_BUILT, f"{name} {shown(fields[name])}: {what}", pointer=f"/{name}")

    if as_choice(or_default(fields.get("tls"), Tls.OFF), "/tls", Tls) is not Tls.OFF:
        raise refused("tls", "TLS at the edge is not built yet; leave it 'off', the origin's own TLS passes through")
    traffic_type = as_choice(or_default(fields.get("traffic_type"), TrafficType.DIRECT), "/traffic_type", TrafficType)
    if traffic_type is not TrafficType.DIRECT:
        raise refused("traffic_type", "only 'direct' is built; bytes pass as they are")
    if or_default(fields.get("origin_worker_id"), "") != "":
        raise refused("origin_worker_id", "workers are not built; leave it out")
    if or_default(fields.get("virtual_network_id"), "") != "":
        _refuse_virtual_network(fields)


def _refuse_virtual_network(fields: Body) -> None:
    """In the documented order: what would be wrong even if virtual networks existed comes first."""

    def refused(code: Code, pointer: str, why: str) -> Problem:
        return Problem(code, f"virtual_network_id {why}", pointer=pointer)

    try:
        network = UUID(as_text(fields["virtual_network_id"], "/virtual_network_id"))
    except (ValueError, Problem):
        value = shown(fields["virtual_network_id"])
        raise refused(Code.VIRTUAL_NETWORK_ID, "/virtual_network_id", f"{value} is not a UUID") from None
    origins = fields.get("origin_direct")
    if not origins or not isinstance(origins, list):
        raise refused(Code.VIRTUAL_NETWORK_ORIGIN, "/origin_direct", "needs origin_direct")
    if len(origins) != 1:
        raise refused(
            Code.VIRTUAL_NETWORK_SINGLE,
            "/origin_direct",
            f"needs exactly one origin in origin_direct, not {len(origins)}",
        )
    if "-" in str(fields.get("protocol")) or "-" in str(origins[0]).rpartition(":")[2]:
        raise refused(
            Code.VIRTUAL_NETWORK_RANGE,
            "/protocol",
            f"needs a single port, protocol {shown(fields.get('protocol'))} to {shown(origins[0])} is a range",
        )
    raise refused(
        Code.VIRTUAL_NETWORK_ROUTE,
        "/virtual_network_id",
        f"{network}: no such network or route; virtual networks are not built yet, leave the field out",
    )
