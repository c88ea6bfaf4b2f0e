"""`causeway up` and `causeway doctor`: the commands that are about this machine, not about a server.

Both become another program with the same pid, so that this package never imports the server or the engine.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from causeway.cli.command import GroupedCommand
from causeway.cli.render import Format

app = typer.Typer(rich_markup_mode=None)


class Dispatch(StrEnum):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


class FastPath(StrEnum):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


class GuardMode(StrEnum):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


@app.command(cls=GroupedCommand)
def up(
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="State and token. Default: ./causeway-data."),
    ] = None,
    api: Annotated[
        str | None,
        typer.Option("--api", metavar="HOST:PORT", help="Where the API listens. Default: 127.0.0.1:8787."),
    ] = None,
    edge_ip: Annotated[
        list[str] | None,
        typer.Option("--edge-ip", metavar="IP", help="Address to serve on (repeatable). Default: 127.0.0.1."),
    ] = None,
    source_ip: Annotated[
        list[str] | None,
        typer.Option("--source-ip", metavar="IP", help="Address to reach origins from (repeatable). Default: any."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, metavar="N", help="Engine threads. Default: 0, one per core."),
    ] = None,
    dispatch: Annotated[
        Dispatch | None,
        typer.Option("--dispatch", help="Serve port ranges from one socket, in the kernel. Default: auto."),
    ] = None,
    fast_path: Annotated[
        FastPath | None,
        typer.Option("--fast-path", help="Carry plain flows in the kernel. Default: auto."),
    ] = None,
    fast_path_flows: Annotated[
        int | None,
        typer.Option(
            "--fast-path-flows",
            min=1024,
            max=16_000_000,
            metavar="N",
            help="Flows that the kernel has room for, about 250 B each; IPv6: a quarter. Default: 131072.",
        ),
    ] = None,
    guard: Annotated[
        GuardMode | None,
        typer.Option("--guard", help="Judge packets before the stack sees them (XDP). Default: auto, on demand."),
    ] = None,
    drain_s: Annotated[
        int | None,
        typer.Option(
            "--drain-s",
            min=0,
            max=86_400,
            metavar="S",
            help="How long connections may go on at a stop or an upgrade. Default: 30.",
        ),
    ] = None,
    allow_loopback_origins: Annotated[
        bool,
        typer.Option("--allow-loopback-origins", help="Let origins be on 127.0.0.0/8 even when an edge IP is not."),
    ] = False,
    deny_origins: Annotated[
        list[str] | None,
        typer.Option("--deny-origins", metavar="PREFIX", help="Never connect to these addresses (repeatable)."),
    ] = None,
    resolver: Annotated[
        list[str] | None,
        typer.Option("--resolver", metavar="IP:PORT", help="Ask this DNS server for origin names (repeatable)."),
    ] = None,
) -> None:
    """Start an edge, its API and its control plane on this machine.

    Prints the URLs and where the token is. SIGTERM or Ctrl-C drains connections and exits 0.
    """
    flags = [
        *_flag("--data-dir", data_dir),
        *_flag("--api", api),
        *_flags("--edge-ip", edge_ip),
        *_flags("--source-ip", source_ip),
        *_flag("--workers", workers),
        *_flag("--dispatch", dispatch),
        *_flag("--fast-path", fast_path),
        *_flag("--fast-path-flows", fast_path_flows),
        *_flag("--guard", guard),
        *_flag("--drain-s", drain_s),
        *(["--allow-loopback-origins"] if allow_loopback_origins else []),
        *_flags("--deny-origins", deny_origins),
        *_flags("--resolver", resolver),
    ]
    _become("causeway.up", flags)


@app.command(cls=GroupedCommand)
def doctor(
    output: Annotated[
        Format, typer.Option("-o", "--output", help="How to print the answer.", show_default=True)
    ] = Format.TABLE,
) -> None:
    """Say what this machine can do, what it cannot, why, and what that means."""
    _become("causeway.edge.doctor", ["-o", str(output)])


@app.command(cls=GroupedCommand)
def down(
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Of the causeway to stop. Default: ./causeway-data."),
    ] = None,
    flush: Annotated[
        bool,
        typer.Option("--flush", help="Take what it left in the kernel away: flows that are carried there end."),
    ] = False,
) -> None:
    """Stop the causeway of a data directory, as SIGTERM does: connections drain first.

    What the kernel carries goes on without it, new flows too, until it starts again; --flush ends that.
    """
    _become("causeway.edge.down", [*_flag("--data-dir", data_dir), *(["--flush"] if flush else [])])


def _flag(name: str, value: object) -> list[str]:
    return [] if value is None else [f"{name}={value}"]


def _flags(name: str, values: list[str] | None) -> list[str]:
    return [f"{name}={value}" for value in values or ()]


def _become(module: str, flags: list[str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *flags])  # noqa: S606 - same pid for the supervisor
