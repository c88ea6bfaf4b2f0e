"""Query parameters: pages, and lists by repeated keys or commas."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from causeway.api.reading import invalid, shown

MOST_PER_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Page:
    number: int
    per_page: int
    is_asked_for: bool

    @property
    def skip(self) -> int:
        return (self.number - 1) * self.per_page


def page_of(request: Request, *, per_page: int = 20) -> Page:
    """`page` and `per_page`; past the end the answer is an empty page, never an error."""
    number = _number(request, "page", 1, most=2**31)
    size = _number(request, "per_page", per_page, most=MOST_PER_PAGE)
    return Page(number, size, "page" in request.query_params)


def choice(request: Request, name: str, choices: tuple[str, ...], default: str) -> str:
    value = request.query_params.get(name) or default
    if value not in choices:
        raise invalid(name, f"query parameter {name} must be one of {', '.join(choices)}, not {shown(value)}")
    return value


def flag(request: Request, name: str) -> bool:
    return choice(request, name, ("true", "false"), "false") == "true"


def values(request: Request, name: str) -> list[str]:
    """`a=1&a=2` and `a=1,2` mean the same."""
    return [part for value in request.query_params.getlist(name) for part in value.split(",") if part]


def _number(request: Request, name: str, default: int, *, most: int) -> int:
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise invalid(name, f"query parameter {name} must be a number from 1 to {most}, not {shown(text)}")
    return int(text)
