"""Help pages with options under headings, in plain text: rich would cost more than the rest of `--help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

ORDER = ("Application", "Origin", "Client address", "Edge", "Timeouts", "Server", "Output")
COLUMN = 30  # every section aligned the same; longer names get a line of their own


class GroupedCommand(TyperCommand):
    """A command whose options show under their `rich_help_panel`, without rich."""

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
