"""What would change between two applications, field by field. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

IGNORED = ("id", "created_on", "modified_on")


@dataclass(frozen=True, slots=True)
class Change:
    """One field; None where it is absent."""

    field: str
    before: str | None
    after: str | None

    @property
    def sign(self) -> str:
        if self.before is None:
            return "+"
        return "-" if self.after is None else "~"


def changes(before: Mapping[str, object] | None, after: Mapping[str, object] | None) -> list[Change]:
    """Return the differing fields in the order of the newer object."""
    old, new = dict(flatten(before or {})), dict(flatten(after or {}))
    return [
        Change(field, old.get(field), new.get(field))
        for field in {**new, **old}
        if old.get(field) != new.get(field) and field not in IGNORED
    ]


def flatten(document: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each field as `outer.inner` with its value as a person would write it; null is absent."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", written(value)


def written(value: object) -> str:
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, list):
        return ", ".join(written(item) for item in value) or "[]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # 5.0 s and 5 s are the same
    return json.dumps(value)
