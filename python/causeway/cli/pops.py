"""`causeway pops`: edges by where they are, and all of a place out of service at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.command import Group, GroupedCommand
from causeway.cli.edges import Force, Undo
from causeway.cli.render import Format, Output, bytes_text, hint, print_json, print_table, say
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    from causeway.answers import PopStatus

app = typer.Typer(
    name="pops",
    help="List PoPs, each one or more edges, and take them out of service.",
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def list_(
    context: typer.Context,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List PoPs: edges fra-1 and fra-2 are the PoP fra."""
    if context.invoked_subcommand is not None:
        return
    with connect(url, token_file) as client:
        found = client.pops()
    if output is Format.JSON:
        print_json(found)
        return
    print_table(("POP", "EDGES", "STATE", "OPEN", "FROM CLIENTS", "TO CLIENTS"), [_row(one) for one in found])


@app.command(cls=GroupedCommand)
def drain(
    name: Annotated[str, typer.Argument(metavar="POP", help="As causeway pops calls it.", show_default=False)],
    undo: Undo = False,
    force: Force = False,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Take all edges of a PoP out of service: their connections end as those of a deleted application do."""
    with connect(url, token_file) as client:
        edges = client.drain_pop(name, is_drained=not undo, is_forced=force)
    if output is Format.JSON:
        print_json({"name": name, "edges": edges, "drained": not undo})
        return
    told = f"{name} ({', '.join(edges)})"
    say(f"PoP {told} serves again" if undo else f"PoP {told} serves nobody any more", style="green")
    if not undo:
        hint(f"undo:  causeway pops drain {name} --undo")


def _row(pop: PopStatus) -> tuple[str, ...]:
    return (
        pop["name"],
        ", ".join(edge["name"] for edge in pop["edges"]),
        state_text(pop),
        str(pop["connections_open"]),
        bytes_text(pop["bytes_ingress"]),
        bytes_text(pop["bytes_egress"]),
    )


def state_text(pop: PopStatus) -> str:
    """How many of its edges serve, and what the others do."""
    states = [edge["state"] for edge in pop["edges"]]
    serving = states.count("serving")
    if serving == len(states):
        return "serving"
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "serving"]
    if len(states) == 1 or (not serving and len(set(states)) == 1):
        return states[0]
    return ", ".join([f"{serving} serving", *others])
