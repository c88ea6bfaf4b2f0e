"""Query parameters: pages, choices, and lists by repeated keys or commas."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fastapi import Request

from causeway.model.document.reading import invalid, shown

PER_PAGE = 20
MOST_PER_PAGE = 1000
_MOST_PAGES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Page:
    number: int
    per_page: int
    is_asked_for: bool

    @property
    def skip(self) -> int:
        return (self.number - 1) * self.per_page


def page_of(request: Request) -> Page:
    """`page` and `per_page`; past the end the answer is an empty page, never an error."""
    number = _number(request, "page", 1, most=_MOST_PAGES)
    size = _number(request, "per_page", PER_PAGE, most=MOST_PER_PAGE)
    return Page(number, size, "page" in request.query_params)


def choice(request: Request, name: str, choices: tuple[str, ...], default: str) -> str:
    value = request.query_params.get(name) or default
    if value not in choices:
        raise invalid(name, f"query parameter {name} must be one of {', '.join(choices)}, not {shown(value)}")
    return value


def is_descending(request: Request) -> bool:
    return choice(request, "direction", ("asc", "desc"), "asc") == "desc"


def flag(request: Request, name: str) -> bool:
    return choice(request, name, ("true", "false", "1", "0"), "false") in ("true", "1")


def moment(request: Request, name: str) -> int | None:
    """Unix time in ms of a time with a zone."""
    text = request.query_params.get(name)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))  # what '+' becomes in a query that was not escaped
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise invalid(
            name, f"query parameter {name} must be a time with a zone such as 2026-12-31T23:59:00Z, not {shown(text)}"
        )
    return int(found.timestamp() * 1000)


def values(request: Request, name: str) -> tuple[str, ...]:
    """`a=1&a=2` (the SDKs) and `a=1,2` (the documentation) mean the same."""
    return tuple(part for value in request.query_params.getlist(name) for part in value.split(",") if part)


def _number(request: Request, name: str, default: int, *, most: int) -> int:
    text = request.query_params.get(name)
    if not text:
        return default
    digits = text.removesuffix(".0")  # some clients call it a float
    if not (digits.isascii() and digits.isdigit() and len(digits) < 12 and 1 <= int(digits) <= most):
        raise invalid(name, f"query parameter {name} must be a whole number from 1 to {most}, not {shown(text)}")
    return int(digits)
