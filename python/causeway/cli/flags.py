"""Every option that describes an application, once, for each command that takes them.

Knows names and help texts. What the values mean is in draft.py; what is allowed, the server says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

SECONDS = "DURATION"


class ProxyProtocol(StrEnum):
    OFF = "off"
    V1 = "v1"
    V2 = "v2"
    SIMPLE = "simple"


def option(*names: str, panel: str, metavar: str | None = None, text: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, show_default=False)


def _duration(name: str, text: str, panel: str = "Timeouts") -> Any:
    return option(name, panel=panel, metavar=SECONDS, text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationFlags:
    """What the operator typed; None means not mentioned."""

    dns: Annotated[
        str | None,
        option(
            "--dns",
            panel="Application",
            metavar="NAME",
            text="Hostname of clients; without a dot, the zone is added.",
        ),
    ] = None
    protocol: Annotated[
        list[str] | None,
        option(
            "--protocol",
            panel="Application",
            metavar="PROTO/PORTS",
            text="Edge side, like tcp/22 or udp/27000-27050. Repeat it to make one application each.",
        ),
    ] = None
    name: Annotated[
        str | None,
        option("--name", panel="Application", metavar="TEXT", text="A name of your own, for lists and logs."),
    ] = None
    origin: Annotated[
        list[str] | None,
        option(
            "--origin",
            panel="Origin",
            metavar="ADDR[:PORTS]",
            text="Where connections go, tried in this order (repeatable). Ports default to the protocol's.",
        ),
    ] = None
    origin_dns: Annotated[
        str | None,
        option("--origin-dns", panel="Origin", metavar="NAME", text="Origin by name instead of address."),
    ] = None
    origin_dns_type: Annotated[
        str | None,
        option(
            "--origin-dns-type",
            panel="Origin",
            metavar="A|AAAA|SRV",
            text="Records to ask for. Default: A and AAAA.",
        ),
    ] = None
    origin_dns_ttl: Annotated[
        str | None,
        _duration("--origin-dns-ttl", "How often the name is resolved again. Default: 10m.", "Origin"),
    ] = None
    origin_port: Annotated[
        str | None,
        option("--origin-port", panel="Origin", metavar="PORTS", text="Port or range at --origin-dns."),
    ] = None
    proxy_protocol: Annotated[
        ProxyProtocol | None,
        option(
            "--proxy-protocol",
            panel="Client address",
            text="Tell the origin who the client is. Default: off.",
        ),
    ] = None
    udp_header: Annotated[
        str | None,
        option(
            "--udp-header",
            panel="Client address",
            metavar="first|every",
            text="Datagrams that carry a v2 header. Default: first.",
        ),
    ] = None
    proxy_from: Annotated[
        list[str] | None,
        option(
            "--proxy-from",
            panel="Client address",
            metavar="PREFIX",
            text="Believe, and demand, PROXY headers from these clients (repeatable).",
        ),
    ] = None
    proxy_header_timeout: Annotated[
        str | None,
        _duration(
            "--proxy-header-timeout",
            "How long such a client may take to send it. Default: 3s.",
            "Client address",
        ),
    ] = None
    edge_ip: Annotated[
        list[str] | None,
        option(
            "--edge-ip",
            panel="Edge",
            metavar="ADDR",
            text="Serve on this address of the edge only (repeatable).",
        ),
    ] = None
    edge_connectivity: Annotated[
        str | None,
        option(
            "--edge-connectivity",
            panel="Edge",
            metavar="all|ipv4|ipv6",
            text="Serve on every address of a family.",
        ),
    ] = None
    ip_firewall: Annotated[
        bool | None, option("--ip-firewall/--no-ip-firewall", panel="Edge", text="Apply the IP access rules.")
    ] = None
    traffic_type: Annotated[
        str | None,
        option(
            "--traffic-type",
            panel="Edge",
            metavar="direct|http|https",
            text="Default: direct, bytes as they come.",
        ),
    ] = None
    tls: Annotated[
        str | None,
        option(
            "--tls",
            panel="Edge",
            metavar="off|flexible|full|strict",
            text="Default: off, TLS passes through.",
        ),
    ] = None
    argo_smart_routing: Annotated[
        bool | None,
        option(
            "--smart-routing/--no-smart-routing", panel="Edge", text="Let control choose over which edges flows go."
        ),
    ] = None
    virtual_network_id: Annotated[
        str | None,
        option(
            "--virtual-network-id",
            panel="Edge",
            metavar="UUID",
            text="Reach the origin through this network.",
        ),
    ] = None
    carrier: Annotated[
        str | None,
        option(
            "--carrier",
            panel="Edge",
            metavar="auto|engine|kernel",
            text="Who moves the bytes. Default: auto.",
        ),
    ] = None
    balance: Annotated[
        str | None,
        option(
            "--balance",
            panel="Origin",
            metavar="order|hash",
            text="Which of several origins a client gets: the first that answers, or by its address. Default: order.",
        ),
    ] = None
    weights: Annotated[
        list[int] | None,
        option("--weight", panel="Origin", metavar="N", text="With hash, one for each --origin (repeatable)."),
    ] = None
    transparent: Annotated[
        bool | None,
        option(
            "--transparent/--no-transparent",
            panel="Client address",
            text="The origin sees the client's own address; it routes back through the edge.",
        ),
    ] = None
    path: Annotated[
        list[str] | None,
        option(
            "--path",
            panel="Edge",
            metavar="EDGE,...",
            text="Edges to go over, the last connects to the origin (repeatable, best first); direct for none.",
        ),
    ] = None
    mitigation: Annotated[
        str | None,
        option(
            "--mitigation",
            panel="Edge",
            metavar="off|low|medium|high",
            text="How little it takes for attacks to be held off automatically. Default: medium.",
        ),
    ] = None
    logins: Annotated[
        bool | None,
        option(
            "--logins/--no-logins",
            panel="Edge",
            text="Clients log in: ban who tries again and again. Default: by the ports (SSH, RDP, VNC, Telnet, FTP).",
        ),
    ] = None
    limits: Annotated[
        list[str] | None,
        option(
            "--limit",
            panel="Edge",
            metavar="OF,AMOUNT=N,...",
            text="Like source,connections=20,ban=60s; OF is application, source or asn (repeatable); off for none.",
        ),
    ] = None
    minecraft_status_cache: Annotated[
        str | None,
        _duration(
            "--minecraft-status-cache",
            "Answer the server list from memory, and ask the server so often at most. Default: off.",
            "Minecraft",
        ),
    ] = None
    minecraft_joins: Annotated[
        int | None,
        option(
            "--minecraft-joins",
            panel="Minecraft",
            metavar="N",
            text="Joins in a second; more wait for their turn. Default: no limit.",
        ),
    ] = None
    minecraft_challenge: Annotated[
        bool | None,
        option(
            "--minecraft-challenge/--no-minecraft-challenge",
            panel="Minecraft",
            text="Who has asked for the status before joins before strangers. Default: yes.",
        ),
    ] = None
    connect_timeout: Annotated[
        str | None, _duration("--connect-timeout", "Per origin, then the next is tried. Default: 3s.")
    ] = None
    idle_timeout: Annotated[str | None, _duration("--idle-timeout", "No byte in either direction. Default: 1h.")] = None
    half_close_timeout: Annotated[
        str | None,
        _duration("--half-close-timeout", "One side has finished, the other has not. Default: off."),
    ] = None
    no_progress_timeout: Annotated[
        str | None, _duration("--no-progress-timeout", "Bytes wait and the reader takes none. Default: 5m.")
    ] = None
    udp_idle_timeout: Annotated[
        str | None, _duration("--udp-idle-timeout", "No datagram in either direction. Default: 1m.")
    ] = None
    on_delete: Annotated[
        str | None,
        option(
            "--on-delete",
            panel="Timeouts",
            metavar="drain|close",
            text="Connections when deleted. Default: drain.",
        ),
    ] = None
    drain: Annotated[str | None, _duration("--drain", "How long a drain may last. Default: 30s.")] = None


def with_application_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` an option for every field of ApplicationFlags, handed over as its argument `flags`."""
    hints = get_type_hints(ApplicationFlags, include_extras=True)
    names = [field.name for field in fields(ApplicationFlags)]
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "flags"]
    taken = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[name]) for name in names
    ]

    def run(**given: Any) -> None:
        flags = ApplicationFlags(**{name: given.pop(name) for name in names})
        command(flags=flags, **given)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + taken
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
