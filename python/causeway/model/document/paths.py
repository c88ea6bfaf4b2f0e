"""`x_causeway.paths` of a document: the ways to the origins over other edges."""

from __future__ import annotations

from causeway.model.document.reading import as_list, as_text, invalid, shown
from causeway.model.edge import LOCAL, is_edge_name
from causeway.model.paths import MOST_HOPS, MOST_PATHS, Paths

_LONGEST_NAME = 32


def parse_paths(value: object, pointer: str) -> Paths:
    """Lists of names of edges, the best way first; an empty one is direct.

    Raises:
        Problem: 10012 with the pointer of the entry.
    """
    paths = tuple(
        _path(entry, f"{pointer}/{number}") for number, entry in enumerate(as_list(value, pointer, most=MOST_PATHS))
    )
    if len(set(paths)) < len(paths):
        raise invalid(pointer, f"{pointer} has a path twice")
    return paths


def _path(value: object, pointer: str) -> tuple[str, ...]:
    names = tuple(
        as_text(entry, f"{pointer}/{number}", longest=_LONGEST_NAME)
        for number, entry in enumerate(as_list(value, pointer, most=MOST_HOPS))
    )
    for name in names:
        if name != LOCAL and not is_edge_name(name):
            raise invalid(pointer, f"{shown(name)} is not the name of an edge such as fra-1")
    if len(set(names)) < len(names):
        raise invalid(pointer, f"{pointer} goes through an edge twice")
    return names
