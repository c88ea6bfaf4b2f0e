"""Read JSON values strictly: one of the wrong kind is named with its pointer, an unknown field is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import TypeVar

from causeway.model.problem import Code, Problem

E = TypeVar("E", bound=StrEnum)
Body = Mapping[str, object]
LONGEST_S = 604_800  # a week, the engine's limit for every timeout


def invalid(pointer: str, message: str) -> Problem:
    return Problem(Code.INVALID_VALUE, message, pointer=pointer)


def shown(value: object) -> str:
    """The offending value, short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def as_object(value: object, pointer: str) -> Body:
    if not isinstance(value, Mapping):
        raise invalid(pointer, f"{pointer or 'the body'} must be an object, not {shown(value)}")
    return value


def refuse_unknown(body: Body, known: Collection[str], pointer: str) -> None:
    for name in body:
        if name not in known:
            hint = ", ".join(sorted(known))
            raise Problem(
                Code.UNKNOWN_FIELD, f"unknown field {shown(name)}: known are {hint}", pointer=f"{pointer}/{name}"
            )


def or_default(value: object, default: str) -> object:
    """Missing, `null` and the empty text, which some clients send for what they do not set, mean the default."""
    return default if value is None or value == "" else value


def as_text(value: object, pointer: str, *, longest: int = 255) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise invalid(pointer, f"{pointer} must be printable text of 1 to {longest} characters, not {shown(value)}")
    return value


def as_bool(value: object, pointer: str) -> bool:
    """False where nothing is said."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(pointer, f"{pointer} must be true or false, not {shown(value)}")
    return value


def as_switch(body: object, name: str) -> bool:
    """A body that is one boolean, and has to say it."""
    fields = as_object(body, "")
    refuse_unknown(fields, (name,), "")
    is_on = fields.get(name)
    if not isinstance(is_on, bool):
        raise invalid(f"/{name}", f"/{name} must be true or false, not {shown(is_on)}")
    return is_on


def as_whole(value: object) -> int | None:
    """A whole number, however JSON wrote it (600 or 600.0)."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def as_seconds(value: object, pointer: str, *, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= LONGEST_S:
        raise invalid(
            pointer, f"{pointer} must be a number of seconds from {least:g} to {LONGEST_S}, not {shown(value)}"
        )
    return float(value)


def as_list(value: object, pointer: str, *, most: int) -> list[object]:
    if not isinstance(value, list) or len(value) > most:
        raise invalid(pointer, f"{pointer} must be a list of at most {most} entries, not {shown(value)}")
    return value


def as_choice(value: object, pointer: str, kind: type[E]) -> E:
    """Enumerations are compared without regard to case, as the original's clients expect."""
    if isinstance(value, str):
        for choice in kind:
            if choice.value.lower() == value.lower():
                return choice
    choices = ", ".join(repr(choice.value) for choice in kind)
    raise invalid(pointer, f"{pointer} must be one of {choices}, not {shown(value)}")
