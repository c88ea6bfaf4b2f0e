"""`x_causeway` of a document: what the original has no field for. Every field is optional."""

from __future__ import annotations

from dataclasses import fields as fields_of

from causeway.model.application import (
    Balance,
    Carrier,
    DirectOrigin,
    Extension,
    NamedOrigin,
    Network,
    OnDelete,
    ProxyProtocol,
    Sensitivity,
    Transport,
    UdpHeader,
)
from causeway.model.document.limits import parse_limits, show_limits
from causeway.model.document.minecraft import parse_minecraft, show_minecraft
from causeway.model.document.paths import parse_paths
from causeway.model.document.reading import (
    Body,
    as_bool,
    as_choice,
    as_list,
    as_object,
    as_seconds,
    as_text,
    as_whole,
    invalid,
    refuse_unknown,
    shown,
)
from causeway.model.origin_policy import parse_network
from causeway.model.smart import not_on_paths

READ_ONLY = ("smart_routing",)  # may be there, as it was shown, and says nothing
FIELDS = tuple(field.name for field in fields_of(Extension) if field.name != "stated")
_LEAST_S = {"proxy_header_timeout_s": 0.001, "connect_timeout_s": 0.001, "udp_idle_timeout_s": 0.001}
_MOST_PREFIXES = 1000
_LONGEST_NAME = 100
_HEAVIEST = 1000


def parse_extension(
    value: object,
    transport: Transport,
    proxy_protocol: ProxyProtocol,
    origins: tuple[DirectOrigin, ...] | NamedOrigin,
) -> Extension:
    """Read `x_causeway`; `null` anywhere means the default. What it says has to fit the rest of the document.

    Raises:
        Problem: 10012, 19001 or 19002 with the pointer of the field.
    """
    if value is None:
        return Extension()
    given = as_object(value, "/x_causeway")
    refuse_unknown(given, (*FIELDS, *READ_ONLY), "/x_causeway")
    stated = {name: item for name, item in given.items() if item is not None and name not in READ_ONLY}
    read = {name: _field(name, item, transport) for name, item in stated.items()}
    extension = Extension(**read, stated=frozenset(read))  # type: ignore[arg-type]
    if isinstance(origins, NamedOrigin) and extension.balance is Balance.HASH:
        raise invalid("/x_causeway/balance", "x_causeway.balance 'hash' is for origin_direct, not for origin_dns")
    if extension.weights and (why := _not_weighed(extension, 0 if isinstance(origins, NamedOrigin) else len(origins))):
        raise invalid("/x_causeway/weights", f"x_causeway.weights {why}")
    if extension.transparent and (why := _not_transparent(extension, proxy_protocol)):
        raise invalid("/x_causeway/transparent", f"x_causeway.transparent {why}")
    if extension.paths and (why := not_on_paths(extension)):
        raise invalid("/x_causeway/paths", f"x_causeway.paths {why}")
    return extension


def show_extension(extension: Extension, transport: Transport) -> Body:
    """What was stated, and nothing else."""
    shown = {name: _shown(getattr(extension, name)) for name in FIELDS if name in extension.stated}
    if "limits" in shown:
        shown["limits"] = show_limits(extension.limits, transport)
    if "paths" in shown:
        shown["paths"] = [list(path) for path in extension.paths]
    if extension.minecraft:
        shown["minecraft"] = show_minecraft(extension.minecraft)
    return shown


def _field(name: str, value: object, transport: Transport) -> object:
    pointer = f"/x_causeway/{name}"
    if name.endswith("_s"):
        return as_seconds(value, pointer, least=_LEAST_S.get(name, 0.0))
    match name:
        case "name":
            return as_text(value, pointer, longest=_LONGEST_NAME)
        case "udp_header":
            return as_choice(value, pointer, UdpHeader)
        case "on_delete":
            return as_choice(value, pointer, OnDelete)
        case "carrier":
            return as_choice(value, pointer, Carrier)
        case "mitigation":
            return as_choice(value, pointer, Sensitivity)
        case "minecraft":
            return parse_minecraft(value, pointer, transport)
        case "limits":
            return parse_limits(value, pointer, transport)
        case "balance":
            return as_choice(value, pointer, Balance)
        case "weights":
            return tuple(_weight(item, f"{pointer}/{n}") for n, item in enumerate(as_list(value, pointer, most=64)))
        case "paths":
            return parse_paths(value, pointer)
        case "transparent" | "logins":
            return as_bool(value, pointer)
        case _:
            return _trusted(value, pointer, transport)


def _weight(value: object, pointer: str) -> int:
    number = as_whole(value)
    if number is None or not 0 <= number <= _HEAVIEST:
        raise invalid(pointer, f"{pointer} must be a whole number from 0 to {_HEAVIEST}, not {shown(value)}")
    return number


def _not_weighed(extension: Extension, origins: int) -> str | None:
    if extension.balance is not Balance.HASH:
        return "go with balance 'hash': in order, the first origin that answers has all clients"
    if len(extension.weights) != origins:
        return f"must have one for each of the {origins} entries of origin_direct, not {len(extension.weights)}"
    return None if any(extension.weights) else "must have one at least that is above 0"


def _not_transparent(extension: Extension, proxy_protocol: ProxyProtocol) -> str | None:
    if extension.carrier is Carrier.ENGINE:
        return "is for the kernel alone: carrier must be 'auto' or 'kernel', not 'engine'"
    if proxy_protocol is not ProxyProtocol.OFF:
        return f"shows the origin the client itself: proxy_protocol must be 'off', not '{proxy_protocol}'"
    if extension.minecraft:
        return "cannot go with minecraft: the engine reads what a client says first"
    if extension.proxy_protocol_from:
        return "cannot go with proxy_protocol_from: the kernel reads no PROXY header from clients"
    return None


def _trusted(value: object, pointer: str, transport: Transport) -> tuple[Network, ...]:
    entries = as_list(value, pointer, most=_MOST_PREFIXES)
    if entries and transport is Transport.UDP:
        raise invalid(pointer, "proxy_protocol_from is for tcp: over udp no header is read from the client side")
    return tuple(_network(entry, f"{pointer}/{n}") for n, entry in enumerate(entries))


def _network(value: object, pointer: str) -> Network:
    try:
        return parse_network(as_text(value, pointer))
    except ValueError:
        raise invalid(pointer, f"{shown(value)} is not a prefix such as 10.0.0.0/8 (host bits must be zero)") from None


def _shown(value: object) -> object:
    if isinstance(value, tuple):
        return [item if isinstance(item, int) else str(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
