"""Flags that `causeway up` and `causeway edge` share: of the engine of this machine, and of the way to others."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Mode(StrEnum):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="State and token. Default: ./causeway-data."),
]
Api = Annotated[
    str | None,
    typer.Option("--api", metavar="HOST:PORT", help="Where the API listens. Default: 127.0.0.1:8787."),
]
EdgeIps = Annotated[
    list[str] | None,
    typer.Option("--edge-ip", metavar="IP", help="Address to serve on (repeatable). Default: 127.0.0.1."),
]
SourceIps = Annotated[
    list[str] | None,
    typer.Option("--source-ip", metavar="IP", help="Address to reach origins from (repeatable). Default: any."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, metavar="N", help="Engine threads. Default: 0, one per core."),
]
DispatchMode = Annotated[
    Mode | None,
    typer.Option("--dispatch", help="Serve port ranges from one socket, in the kernel. Default: auto."),
]
FastPathMode = Annotated[
    Mode | None,
    typer.Option("--fast-path", help="Carry plain flows in the kernel. Default: auto."),
]
FastPathFlows = Annotated[
    int | None,
    typer.Option(
        "--fast-path-flows",
        min=1024,
        max=16_000_000,
        metavar="N",
        help="Flows that the kernel has room for, about 250 B each; IPv6: a quarter. Default: 131072.",
    ),
]
Guarding = Annotated[
    Mode | None,
    typer.Option("--guard", help="Judge packets before the stack sees them (XDP). Default: auto, on demand."),
]
Overlay = Annotated[
    str | None,
    typer.Option(
        "--overlay",
        metavar="IP:PORT",
        help="Listen there for other edges, so that flows can go from edge to edge. Default: off.",
    ),
]
DrainS = Annotated[
    int | None,
    typer.Option(
        "--drain-s",
        min=0,
        max=86_400,
        metavar="S",
        help="How long connections may go on at a stop or an upgrade. Default: 30.",
    ),
]
AllowLoopbackOrigins = Annotated[
    bool,
    typer.Option("--allow-loopback-origins", help="Let origins be on 127.0.0.0/8 even when an edge IP is not."),
]
DenyOrigins = Annotated[
    list[str] | None,
    typer.Option("--deny-origins", metavar="PREFIX", help="Never connect to these addresses (repeatable)."),
]
Resolvers = Annotated[
    list[str] | None,
    typer.Option("--resolver", metavar="IP:PORT", help="Ask this DNS server for origin names (repeatable)."),
]
PublicIps = Annotated[
    list[str] | None,
    typer.Option(
        "--public-ip",
        metavar="IP",
        help="Address that clients reach this edge by, for answers of DNS (repeatable). Default: its edge addresses.",
    ),
]
Location = Annotated[
    str | None,
    typer.Option(
        "--location", metavar="LAT,LON", help="Where this edge is, such as 50.11,8.68: near clients are sent to it."
    ),
]
Dns = Annotated[
    list[str] | None,
    typer.Option("--dns", metavar="IP[:PORT]", help="Answer the names of applications here, on port 53 (repeatable)."),
]
DnsNames = Annotated[
    list[str] | None,
    typer.Option(
        "--dns-name", metavar="NAME", help="Of the name servers (repeatable). Default: ns1, or ns-EDGE, in each zone."
    ),
]
DnsTtlS = Annotated[
    int | None,
    typer.Option("--dns-ttl-s", min=1, max=3600, metavar="S", help="How long resolvers keep an answer. Default: 20."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--exchange-token-file", metavar="FILE", help="The token that nats-server asks for."),
]
Ca = Annotated[
    Path | None,
    typer.Option("--exchange-ca", metavar="FILE", help="Who vouches for nats-server. Default: the machine's own."),
]
Plain = Annotated[
    bool,
    typer.Option("--exchange-plain", help="Allow nats:// to another machine, where the network between is private."),
]
RolloutBakeS = Annotated[
    float | None,
    typer.Option(
        "--rollout-bake-s",
        min=0,
        max=3_600,
        metavar="S",
        help="How long each stage of a rollout is looked at. Default: 8.",
    ),
]
Anycast = Annotated[
    list[str] | None,
    typer.Option("--anycast", metavar="PREFIX", help="Have BIRD announce it while this edge serves (repeatable)."),
]
AnycastCommunities = Annotated[
    list[str] | None,
    typer.Option("--anycast-community", metavar="A:B[:C]", help="Goes along with it (repeatable). Default: none."),
]
AnycastMed = Annotated[
    int | None,
    typer.Option("--anycast-med", metavar="N", help="Of several edges behind one neighbour, the lowest is taken."),
]
AnycastDrainCommunities = Annotated[
    list[str] | None,
    typer.Option(
        "--anycast-drain-community",
        metavar="A:B[:C]",
        help="Goes along instead before it is withdrawn (repeatable). Default: 65535:0, graceful shutdown.",
    ),
]
AnycastLeaveS = Annotated[
    int | None,
    typer.Option("--anycast-leave-s", metavar="S", help="How long before it is withdrawn. Default: 3."),
]
AnycastPassTo = Annotated[
    list[str] | None,
    typer.Option(
        "--anycast-pass-to",
        metavar="IP",
        help="While this edge drains, new connections go on to this edge of another PoP, over a link between the two.",
    ),
]
BirdSocket = Annotated[
    Path | None,
    typer.Option("--bird-socket", metavar="PATH", help="Of the BIRD that announces. Default: /run/bird/bird.ctl."),
]
BirdInclude = Annotated[
    Path | None,
    typer.Option(
        "--bird-include", metavar="FILE", help="Written for bird.conf to include. Default: /etc/bird/causeway.conf."
    ),
]


def flags(given: Mapping[str, object]) -> list[str]:
    """As they go to the program that a command becomes."""
    made = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            made += [f"{flag}={one}" for one in value]
        elif value is True:
            made.append(flag)
        elif value is not None and value is not False:
            made.append(f"{flag}={value}")
    return made
