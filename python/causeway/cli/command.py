"""The two kinds of command: help under headings in plain text, and options read without a type library.

rich for a help page, and pydantic for a string, each cost more time than all the rest of a command.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter
    from typer._click.core import Parameter

ORDER = ("Application", "Origin", "Client address", "Edge", "Timeouts", "Server", "Output", "Options")
COLUMN = 30  # every section aligned the same; longer names get a line of their own
UNREAD = object()


class Group(TyperGroup):
    """A command with commands below it."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        return [plain(param) for param in super().get_params(ctx)]


class GroupedCommand(TyperCommand):
    """A command whose options show under their `rich_help_panel`."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        return [plain(param) for param in super().get_params(ctx)]

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                is_argument = param.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or "Options"
                groups.setdefault(panel, []).append(record)
        for panel in ("Arguments", *ORDER):
            if records := groups.get(panel):
                with formatter.section(panel):
                    formatter.write_dl([(names.ljust(COLUMN), text) for names, text in records])


def plain(param: Parameter) -> Parameter:
    """Let an option of an everyday type be read here; anything else goes the long way through typer."""
    if "process_value" in vars(param) or param.required:
        return param
    read_by_typer, annotation = (
        param.process_value,
        getattr(getattr(param, "type_descriptor", None), "annotation", None),
    )

    def process_value(ctx: Context, value: Any) -> Any:
        read = read_value(value, annotation)
        if read is UNREAD:
            return read_by_typer(ctx, value)
        return param.callback(ctx, param, read) if param.callback else read

    param.process_value = process_value  # type: ignore[method-assign]
    return param


def read_value(value: Any, annotation: Any) -> Any:
    """Return the value as its type, or UNREAD if that takes more than this."""
    if value is None or (isinstance(value, (str, bool)) and type(value) is annotation):
        return value
    if annotation == list[str] and isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum) and value in list(annotation):
        return annotation(value)
    return Path(value) if annotation is Path and isinstance(value, str) else UNREAD
