"""`causeway edges` and `causeway drain`: each edge in a line, whether it serves the newest state or nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.command import GroupedCommand
from causeway.cli.render import Format, Output, bytes_text, duration_text, hint, print_json, print_table, say
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    from causeway.client import EdgeStatus

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=GroupedCommand)
def edges(output: Output = Format.TABLE, url: Url = None, token_file: TokenFile = None) -> None:
    """List the edges: where they serve, which snapshot, how much, and what keeps one behind."""
    with connect(url, token_file) as client:
        found = client.status()["edges"]
    if output is Format.JSON:
        print_json(found)
        return
    newest = next((edge["version"] for edge in found if "remote" not in edge), 0)
    print_table(
        ("EDGE", "ADDRESSES", "SNAPSHOT", "OPEN", "FROM CLIENTS", "TO CLIENTS", "STATE"),
        [_row(edge, newest) for edge in found],
    )


@app.command(cls=GroupedCommand)
def drain(
    name: Annotated[str, typer.Argument(metavar="EDGE", help="As causeway edges calls it.", show_default=False)],
    undo: Annotated[bool, typer.Option("--undo", help="Have it serve again.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Take an edge of another machine out of service: its connections end as those of a deleted application do."""
    with connect(url, token_file) as client:
        client.drain_edge(name, is_drained=not undo)
    say(f"edge {name} serves again" if undo else f"edge {name} serves nobody any more", style="green")
    if not undo:
        hint(f"undo:  causeway drain {name} --undo")


def _row(edge: EdgeStatus, newest: int) -> tuple[str, ...]:
    totals, remote = edge["totals"], edge.get("remote")
    return (
        edge["name"],
        ", ".join(remote["addresses"]) if remote else "of this server",
        str(edge["version"]),
        str(totals.get("connections_open", 0)),
        bytes_text(totals.get("bytes_ingress", 0)),
        bytes_text(totals.get("bytes_egress", 0)),
        state_text(edge, newest),
    )


def state_text(edge: EdgeStatus, newest: int) -> str:
    """The first that is true: silent, draining, behind and why, refused ports, serving."""
    remote = edge.get("remote")
    if remote and remote["is_silent"]:
        return f"silent for {duration_text(remote['silent_s'])}"
    if edge["is_draining"]:
        return "draining"
    if remote and remote["is_drained"] and not remote["trouble"]:
        return "drained"
    if remote and remote["trouble"]:
        return f"behind: {remote['trouble']}"
    if edge["version"] < newest:
        return "behind"
    if count := len(edge["refused"]):
        return f"serving, {count} listener{'s' if count > 1 else ''} refused"
    return "serving"
