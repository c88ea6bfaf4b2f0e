"""`x_causeway.minecraft` of a document. What was not given is not shown."""

from __future__ import annotations

from causeway.model.application import Transport
from causeway.model.document.reading import (
    Body,
    as_bool,
    as_object,
    as_seconds,
    as_whole,
    invalid,
    refuse_unknown,
    shown,
)
from causeway.model.minecraft import Minecraft

_FIELDS = ("status_cache_s", "joins_per_s", "challenge")
_MOST_JOINS = 100_000


def parse_minecraft(value: object, pointer: str, transport: Transport) -> Minecraft:
    """Read the object.

    Raises:
        Problem: 10012 or 19002 with the pointer of the field.
    """
    if transport is Transport.UDP:
        raise invalid(pointer, "minecraft (Java Edition) is spoken over tcp: this application is udp")
    fields = {name: item for name, item in as_object(value, pointer).items() if item is not None}
    refuse_unknown(fields, _FIELDS, pointer)
    made = Minecraft(
        status_cache_s=as_seconds(fields.get("status_cache_s", 0), f"{pointer}/status_cache_s", least=0.0),
        joins_per_s=_joins(fields.get("joins_per_s", 0), f"{pointer}/joins_per_s"),
        challenge=as_bool(fields.get("challenge", True), f"{pointer}/challenge"),
    )
    if not made.status_cache_s and not made.joins_per_s:
        raise invalid(pointer, f"{pointer} asks for nothing: give status_cache_s or joins_per_s above 0")
    return made


def show_minecraft(minecraft: Minecraft) -> Body:
    seconds = minecraft.status_cache_s
    return {
        "status_cache_s": int(seconds) if seconds.is_integer() else seconds,
        "joins_per_s": minecraft.joins_per_s,
        "challenge": minecraft.challenge,
    }


def _joins(value: object, pointer: str) -> int:
    number = as_whole(value)
    if number is None or not 0 <= number <= _MOST_JOINS:
        raise invalid(pointer, f"{pointer} must be a whole number from 0 to {_MOST_JOINS}, not {shown(value)}")
    return number
