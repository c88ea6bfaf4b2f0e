"""Help pages with options under headings, in plain text: rich would cost more than the rest of `--help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter
    from typer._click.core import Parameter

ORDER = ("Application", "Origin", "Client address", "Edge", "Timeouts", "Server", "Output")
COLUMN = 30  # every section aligned the same; longer names get a line of their own
TYPERS_OWN = ("help", "install_completion", "show_completion")


class Group(TyperGroup):
    """A command with commands below it."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        return with_false_flags(super().get_params(ctx))


class GroupedCommand(TyperCommand):
    """A command whose options show under their `rich_help_panel`, without rich."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        return with_false_flags(super().get_params(ctx))

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                is_argument = param.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or "Output"
                groups.setdefault(panel, []).append(record)
        for panel in ("Arguments", *ORDER):
            if records := groups.get(panel):
                with formatter.section(panel):
                    formatter.write_dl([(names.ljust(COLUMN), text) for names, text in records])


def with_false_flags(params: list[Parameter]) -> list[Parameter]:
    """Make typer's own absent flags False: it would load all of pydantic to read their None."""
    for param in params:
        if param.name in TYPERS_OWN:
            param.default = False
    return params
