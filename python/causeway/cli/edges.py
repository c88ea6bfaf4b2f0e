"""`causeway edges`, `drain`, `invite`, `revoke`: each edge in a line, who serves nobody, and who may be one at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.command import GroupedCommand
from causeway.cli.problems import Misuse
from causeway.cli.render import Format, Output, bytes_text, duration_text, hint, print_json, print_table, say
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    from causeway.answers import AnycastStatus, EdgeStatus

app = typer.Typer(rich_markup_mode=None)

Undo = Annotated[bool, typer.Option("--undo", help="Have it serve again.")]
Force = Annotated[bool, typer.Option("--force", help="Even where that leaves an application on no edge.")]


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
        ("EDGE", "ADDRESSES", "SNAPSHOT", "CONTENT", "OPEN", "FROM CLIENTS", "TO CLIENTS", "STATE"),
        [_row(edge, newest) for edge in found],
    )


@app.command(cls=GroupedCommand)
def drain(
    name: Annotated[str, typer.Argument(metavar="EDGE", help="As causeway edges calls it.", show_default=False)],
    undo: Undo = False,
    force: Force = False,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Take an edge of another machine out of service: its connections end as those of a deleted application do."""
    with connect(url, token_file) as client:
        client.drain_edge(name, is_drained=not undo, is_forced=force)
    if output is Format.JSON:
        print_json({"name": name, "drained": not undo})
        return
    say(f"edge {name} serves again" if undo else f"edge {name} serves nobody any more", style="green")
    if not undo:
        hint(f"undo:  causeway drain {name} --undo")


@app.command(cls=GroupedCommand)
def invite(
    name: Annotated[str, typer.Argument(metavar="EDGE", help="Its name, like fra-1.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write it; - for standard output. Default: EDGE.join."),
    ] = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Let another machine be an edge: write a file that it joins with, once, within the hour."""
    path = out or Path(f"{name}.join")
    if path.exists():  # before there is a new invitation, which withdraws the one that is in it
        raise _exists(path)
    with connect(url, token_file) as client:
        invitation = client.invite_edge(name)
    if path == Path("-"):
        print_json(invitation)
        return
    _write_secret(path, json.dumps(invitation))
    if output is Format.JSON:
        print_json({"name": name, "file": str(path)})
        return
    say(f"wrote {path}, which lets one machine in, within the hour: keep it secret", style="green")
    hint(f"there:  causeway edge --join {path.name} --edge-ip ADDRESS")


def _write_secret(path: Path, text: str) -> None:
    """For this user alone, and over nothing that is there."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise Misuse(f"{path} cannot be written: {error.strerror}") from None


def _exists(path: Path) -> Misuse:
    return Misuse(f"{path} exists: remove it, or give --out another name")


@app.command(cls=GroupedCommand)
def revoke(
    name: Annotated[str, typer.Argument(metavar="EDGE", help="As causeway edges calls it.", show_default=False)],
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Have an edge be none any more. It hears nothing from now on, and serves what it has until it is stopped."""
    with connect(url, token_file) as client:
        is_in_force = client.revoke_edge(name)
    if output is Format.JSON:
        print_json({"name": name, "is_in_force": is_in_force})
        return
    say(f"edge {name} is revoked", style="green")
    if not is_in_force:
        hint("nats-server cannot be reached and hears of it as soon as it can")


def _row(edge: EdgeStatus, newest: int) -> tuple[str, ...]:
    totals, remote = edge["totals"], edge.get("remote")
    return (
        edge["name"],
        ", ".join(remote["addresses"]) if remote else "of this server",
        str(edge["version"]),
        content_text(edge),
        str(totals.get("connections_open", 0)),
        bytes_text(totals.get("bytes_ingress", 0)),
        bytes_text(totals.get("bytes_egress", 0)),
        state_text(edge, newest),
    )


def content_text(edge: EdgeStatus) -> str:
    """What it serves, in so many digits that people can compare; the same content has the same."""
    return (edge.get("content") or "?")[:12]


def state_text(edge: EdgeStatus, newest: int) -> str:
    """The first that is true: silent, draining, behind and why, refused ports, serving; and what routers are told."""
    told = edge.get("anycast")
    is_silent = bool((remote := edge.get("remote")) and remote["is_silent"])
    return _own_state(edge, newest) + (_anycast_text(told) if told and not is_silent else "")


def _anycast_text(told: AnycastStatus) -> str:
    if told["trouble"]:
        return "; anycast: see causeway status"
    by_state: dict[str, list[str]] = {}
    for at in told["prefixes"]:
        by_state.setdefault(at["state"], []).append(at["prefix"])
    return "".join(f", {state} {' '.join(prefixes)}" for state, prefixes in by_state.items())


def _own_state(edge: EdgeStatus, newest: int) -> str:
    remote = edge.get("remote")
    if remote and remote["is_silent"]:
        return f"silent for {duration_text(remote['silent_s'])}"
    if edge["is_draining"]:
        return "draining"
    if remote and remote["is_drained"] and not remote["trouble"]:
        return "drained"
    if remote and remote["trouble"]:
        return f"behind: {remote['trouble']}"
    if remote and remote.get("is_held"):
        return "serving, a change waits"
    if edge["version"] < newest:
        return "behind"
    if count := len(edge["refused"]):
        return f"serving, {count} listener{'s' if count > 1 else ''} refused"
    return "serving"
