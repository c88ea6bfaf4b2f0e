"""`x_causeway.limits` of a document. TCP has connections, UDP has sessions and datagrams."""

from __future__ import annotations

from causeway.model.application import Transport
from causeway.model.document.reading import (
    Body,
    as_choice,
    as_list,
    as_object,
    as_seconds,
    as_whole,
    invalid,
    refuse_unknown,
    shown,
)
from causeway.model.limit import Limit, Of

_MOST = 4  # each costs a look-up for every flow
_LARGEST = 1_000_000
_NAMES = {  # of the document: of the model
    Transport.TCP: {"connections": "open", "connections_per_s": "new_per_s", "bytes_per_s": "bytes_per_s"},
    Transport.UDP: {
        "sessions": "open",
        "sessions_per_s": "new_per_s",
        "datagrams_per_s": "datagrams_per_s",
        "bytes_per_s": "bytes_per_s",
    },
}
_PREFIXES = {"ipv4_prefix": 32, "ipv6_prefix": 128}
_MOST_OF = _PREFIXES | {"bytes_per_s": 1_000_000_000_000}


def parse_limits(value: object, pointer: str, transport: Transport) -> tuple[Limit, ...]:
    """Read the limits.

    Raises:
        Problem: 10012 or 19002 with the pointer of the field.
    """
    limits = tuple(
        _limit(entry, f"{pointer}/{n}", transport) for n, entry in enumerate(as_list(value, pointer, most=_MOST))
    )
    about = [(limit.of, limit.ipv4_prefix, limit.ipv6_prefix) for limit in limits]
    for n, one in enumerate(about):
        if one in about[:n]:
            raise invalid(f"{pointer}/{n}", "two limits are of the same: join them in one entry")
    return limits


def show_limits(limits: tuple[Limit, ...], transport: Transport) -> list[Body]:
    return [_shown(limit, transport) for limit in limits]


def _limit(value: object, pointer: str, transport: Transport) -> Limit:
    fields = as_object(value, pointer)
    of = as_choice(fields.get("of"), f"{pointer}/of", Of)
    names = _NAMES[transport]
    known = ("of", *names, "ban_s", *(_PREFIXES if of is Of.SOURCE else ()))
    refuse_unknown(fields, known, pointer)
    read: dict[str, int] = {}
    for name, kept in [*names.items(), *((name, name) for name in _PREFIXES)]:
        if (given := fields.get(name)) is None:
            continue
        most, number = _MOST_OF.get(name, _LARGEST), as_whole(given)
        if number is None or not 0 < number <= most:
            why = f"{pointer}/{name} must be a whole number from 1 to {most}, not {shown(given)}"
            raise invalid(f"{pointer}/{name}", why)
        read[kept] = number
    if not {"open", "new_per_s", "datagrams_per_s", "bytes_per_s"} & read.keys():
        raise invalid(pointer, f"{pointer} limits nothing: give {' or '.join(names)}")
    ban_s = fields.get("ban_s")
    return Limit(of=of, **read, ban_s=as_seconds(ban_s, f"{pointer}/ban_s", least=0.0) if ban_s is not None else 0.0)


def _shown(limit: Limit, transport: Transport) -> Body:
    prefixes = {name: getattr(limit, name) for name in _PREFIXES} if limit.of is Of.SOURCE else {}
    amounts = {name: n for name, kept in _NAMES[transport].items() if (n := getattr(limit, kept))}
    ban_s = int(limit.ban_s) if limit.ban_s.is_integer() else limit.ban_s
    return {"of": limit.of.value, **prefixes, **amounts, **({"ban_s": ban_s} if limit.ban_s else {})}
