"""The `causeway` program: which commands there are, and the exit code of a failure."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from causeway import __version__
from causeway.cli import (
    apps,
    attacks,
    bench,
    dns,
    edges,
    firewall,
    lab,
    machine,
    pops,
    rollouts,
    routes,
    status,
    tail,
    tokens,
    upgrade,
    zones,
)
from causeway.cli.command import Group

app = typer.Typer(
    name="causeway",
    help="A self-hosted layer-4 edge: any TCP or UDP application, any port, on your own machines.",
    epilog="Start with `causeway up`; in another terminal `causeway zones create example.net`, "
    "then `causeway apps create --preset ssh --origin ADDR`.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich alone costs more time than all of --help may take
    pretty_exceptions_enable=False,
)
app.registered_commands += [
    *machine.app.registered_commands,
    *upgrade.app.registered_commands,
    *status.app.registered_commands,
    *edges.app.registered_commands,
    *tail.app.registered_commands,
    *firewall.alone.registered_commands,
    *attacks.alone.registered_commands,
    *routes.alone.registered_commands,
    *bench.app.registered_commands,
]
app.add_typer(apps.app)
app.add_typer(zones.app)
app.add_typer(dns.app)
app.add_typer(firewall.app)
app.add_typer(firewall.geo)
app.add_typer(attacks.app)
app.add_typer(pops.app)
app.add_typer(rollouts.app)
app.add_typer(tokens.app)
app.add_typer(lab.app)
app.add_typer(routes.app)


def _version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"causeway {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Offer what every command shares."""


def run() -> None:
    """Run the command line of this process."""
    try:
        app()
    except Exception as error:
        from causeway.cli.problems import report

        code = report(error)
        if code is None:
            raise
        sys.exit(code)
