"""How answers look: tables for people, JSON for programs. Nothing here asks the server.

Every string goes through `printable`, because names and messages come from elsewhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.diff import Change
from causeway.cli.escape import printable

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 4000  # no terminal, so nothing to fit into: never wrap or cut


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


Output = Annotated[
    Format,
    typer.Option("-o", "--output", help="How to print the answer.", show_default=True, rich_help_panel="Output"),
]

WRAPPING = {"HOSTNAME", "ORIGIN", "NAME", "REASON"}  # in a narrow terminal these give way, the rest stays whole
SIGN_STYLES = {"+": "green", "-": "red", "~": "yellow"}
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False, width=width)


def print_json(value: object) -> None:
    # ASCII only: a control character in a name stays an escape.
    print(json.dumps(value, indent=2, ensure_ascii=True))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], styles: Sequence[str] = ()) -> None:
    """Print rows under headings; `styles` colours whole rows."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in WRAPPING)
    for number, row in enumerate(rows):
        style = styles[number] if number < len(styles) else ""
        table.add_row(*(Text(printable(cell)) for cell in row), style=style or None)
    _print(table)


def print_fields(fields: Iterable[tuple[str, str]], indent: int = 0) -> None:
    """Print name and value pairs, names aligned."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(Text(" " * indent + printable(name)), Text(printable(value)))
    _print(table)


def print_changes(changes: Sequence[Change]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for change in changes:
        values = [value for value in (change.before, change.after) if value is not None]
        table.add_row(
            change.sign,
            Text(printable(change.field)),
            Text(" -> ".join(printable(value) for value in values)),
            style=SIGN_STYLES[change.sign],
        )
    _print(table)


def say(text: str, style: str = "") -> None:
    """Print one line that may hold foreign text."""
    from rich.text import Text

    console().print(Text(printable(text), style=style), soft_wrap=True)


def hint(text: str) -> None:
    """Print the next step where it cannot end up in a pipe."""
    print(printable(text), file=sys.stderr)


def bytes_text(count: int) -> str:
    size, unit = float(count), UNITS[0]
    for larger in UNITS[1:]:
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def duration_text(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours < 1:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{hours} h {minutes % 60} min" if days < 1 else f"{days} d {hours % 24} h"


def ports_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _print(table: object) -> None:
    out = console()
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
