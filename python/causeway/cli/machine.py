"""`causeway up`, `causeway edge` and `causeway doctor`: the commands that are about this machine, not about a server.

They become another program with the same pid, so that this package never imports the server or the engine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from causeway.cli import machine_flags as flags
from causeway.cli.command import GroupedCommand
from causeway.cli.render import Format

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=GroupedCommand)
def up(
    data_dir: flags.DataDir = None,
    api: flags.Api = None,
    edge_ip: flags.EdgeIps = None,
    source_ip: flags.SourceIps = None,
    workers: flags.Workers = None,
    dispatch: flags.DispatchMode = None,
    fast_path: flags.FastPathMode = None,
    fast_path_flows: flags.FastPathFlows = None,
    guard: flags.Guarding = None,
    overlay: flags.Overlay = None,
    drain_s: flags.DrainS = None,
    allow_loopback_origins: flags.AllowLoopbackOrigins = False,
    deny_origins: flags.DenyOrigins = None,
    resolver: flags.Resolvers = None,
    public_ip: flags.PublicIps = None,
    location: flags.Location = None,
    dns: flags.Dns = None,
    dns_name: flags.DnsNames = None,
    dns_ttl_s: flags.DnsTtlS = None,
    exchange: Annotated[
        str | None,
        typer.Option("--exchange", metavar="URL", help="Be the control of edges that join over this nats-server."),
    ] = None,
    exchange_token_file: flags.TokenFile = None,
    exchange_ca: flags.Ca = None,
    exchange_plain: flags.Plain = False,
    rollout_bake_s: flags.RolloutBakeS = None,
    anycast: flags.Anycast = None,
    anycast_community: flags.AnycastCommunities = None,
    anycast_med: flags.AnycastMed = None,
    anycast_drain_community: flags.AnycastDrainCommunities = None,
    anycast_leave_s: flags.AnycastLeaveS = None,
    anycast_pass_to: flags.AnycastPassTo = None,
    bird_socket: flags.BirdSocket = None,
    bird_include: flags.BirdInclude = None,
) -> None:
    """Start an edge, its API and its control plane on this machine.

    Prints the URLs and where the token is. SIGTERM or Ctrl-C drains connections and exits 0.
    """
    _become("causeway.up", flags.flags(locals()))


@app.command(cls=GroupedCommand)
def edge(
    join: Annotated[
        str,
        typer.Option(
            "--join", metavar="FILE|URL", help="What causeway invite wrote; or the nats-server that control uses."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of this edge, such as fra-1, with --join URL.")
    ] = None,
    data_dir: flags.DataDir = None,
    api: Annotated[
        str | None,
        typer.Option("--api", metavar="HOST:PORT", help="Where /healthz and /readyz are. Default: 127.0.0.1:8787."),
    ] = None,
    edge_ip: flags.EdgeIps = None,
    source_ip: flags.SourceIps = None,
    workers: flags.Workers = None,
    dispatch: flags.DispatchMode = None,
    fast_path: flags.FastPathMode = None,
    fast_path_flows: flags.FastPathFlows = None,
    guard: flags.Guarding = None,
    overlay: flags.Overlay = None,
    drain_s: flags.DrainS = None,
    allow_loopback_origins: flags.AllowLoopbackOrigins = False,
    deny_origins: flags.DenyOrigins = None,
    resolver: flags.Resolvers = None,
    public_ip: flags.PublicIps = None,
    location: flags.Location = None,
    dns: flags.Dns = None,
    dns_name: flags.DnsNames = None,
    exchange_token_file: flags.TokenFile = None,
    exchange_ca: flags.Ca = None,
    exchange_plain: flags.Plain = False,
    anycast: flags.Anycast = None,
    anycast_community: flags.AnycastCommunities = None,
    anycast_med: flags.AnycastMed = None,
    anycast_drain_community: flags.AnycastDrainCommunities = None,
    anycast_leave_s: flags.AnycastLeaveS = None,
    anycast_pass_to: flags.AnycastPassTo = None,
    bird_socket: flags.BirdSocket = None,
    bird_include: flags.BirdInclude = None,
) -> None:
    """Start an edge that takes what it serves from control on another machine.

    It serves its last good snapshot whether control is up or not. SIGTERM or Ctrl-C drains connections and exits 0.
    """
    _become("causeway.up", flags.flags(locals()))


@app.command(cls=GroupedCommand)
def control(
    exchange: Annotated[
        str,
        typer.Option("--exchange", metavar="URL", help="The nats-server over which edges join."),
    ],
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="URL",
            help="The PostgreSQL that several control nodes share, postgresql://USER@HOST/NAME. "
            "Default: SQLite in --data-dir.",
        ),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option("--node", metavar="NAME", help="Of this control node. Default: what the machine is called."),
    ] = None,
    api_url: Annotated[
        str | None,
        typer.Option("--api-url", metavar="URL", help="Where others reach its API. Default: http:// and --api."),
    ] = None,
    data_dir: flags.DataDir = None,
    api: flags.Api = None,
    allow_loopback_origins: flags.AllowLoopbackOrigins = False,
    deny_origins: flags.DenyOrigins = None,
    dns: flags.Dns = None,
    dns_name: flags.DnsNames = None,
    dns_ttl_s: flags.DnsTtlS = None,
    exchange_token_file: flags.TokenFile = None,
    exchange_ca: flags.Ca = None,
    exchange_plain: flags.Plain = False,
    rollout_bake_s: flags.RolloutBakeS = None,
) -> None:
    """Start control and its API without an edge on this machine; with --database, one of several.

    Of several one leads: it alone changes anything. The others answer what is read, and one of them leads when it ends.
    """
    _become(
        "causeway.up",
        ["--no-edge", "--workers=1", "--dispatch=off", "--fast-path=off", "--guard=off", *flags.flags(locals())],
    )


@app.command("copy-database", cls=GroupedCommand)
def copy_database(
    database: Annotated[
        str,
        typer.Option("--database", metavar="URL", help="The empty PostgreSQL, postgresql://USER@HOST/NAME."),
    ],
    data_dir: flags.DataDir = None,
) -> None:
    """Copy what a stopped `causeway up` has stored into a database for several control nodes."""
    _become("causeway.copy_database", flags.flags({"database": database, "data_dir": data_dir}))


@app.command(cls=GroupedCommand)
def doctor(
    output: Annotated[
        Format, typer.Option("-o", "--output", help="How to print the answer.", show_default=True)
    ] = Format.TABLE,
    anycast: flags.Anycast = None,
    bird_socket: flags.BirdSocket = None,
) -> None:
    """Say what this machine can do, what it cannot, why, and what that means."""
    _become("causeway.edge.doctor", flags.flags({"output": output, "anycast": anycast, "bird_socket": bird_socket}))


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
    _become("causeway.edge.down", flags.flags({"data_dir": data_dir, "flush": flush}))


def _become(module: str, given: list[str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *given])  # noqa: S606 - same pid for the supervisor
