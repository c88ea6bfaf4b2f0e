"""What the operator says when starting `causeway up`: flags and environment, read once into one frozen value."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from socket import gethostname
from urllib.parse import urlsplit

from causeway.model.anycast import LAST_RESORT_MED, Community, Policy, Terms, parse_anycast, parse_community
from causeway.model.application import Address, Network
from causeway.model.database_url import BadUrl, check_database_url
from causeway.model.edge import is_edge_name
from causeway.model.hostname import hostname
from causeway.model.origin_policy import parse_network
from causeway.model.snapshot import socket_text

TOKEN_VARIABLE = "CAUSEWAY_API_TOKEN"  # noqa: S105 - the name of the variable
DEFAULT_API = "127.0.0.1:8787"
BIRD_SOCKET, BIRD_INCLUDE = Path("/run/bird/bird.ctl"), Path("/etc/bird/causeway.conf")
_TOKEN = re.compile(r"[0-9A-Za-z_-]{40,}", re.ASCII)
_MOST_WORKERS = 256
DISPATCH = FAST_PATH = GUARD = ("auto", "on", "off")
_MOST_DRAIN_S = 86_400
_MOST_BAKE_S = 3_600
DEFAULT_TTL_S, _MOST_TTL_S = 20, 3600  # silent for 5 s, seen within 1: an edge that died is asked for 26 s at most
_MOST_LEAVE_S = 30
LEAVE_SLACK_S = 4.0  # for BIRD, before an edge that stops closes its ports all the same
_LEAST_FLOWS, _MOST_FLOWS = 1024, 16_000_000  # in the kernel


class StartError(Exception):
    """The process cannot start; the message says why and what to do."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """The nats-server where control and edges of other machines meet. With a name this is an edge, else control.

    `join`: the file of an invitation, by which the rest is known. `certifies`: control says who may be an edge.
    """

    url: str
    edge_name: str | None = None
    token: str | None = None
    ca: Path | None = None
    join: Path | None = None
    certifies: bool = False


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """Where names are answered, as whom, and for how long an answer is kept."""

    listen: tuple[tuple[Address, int], ...]
    names: tuple[str, ...]
    ttl_s: int


@dataclass(frozen=True, slots=True)
class AnycastSettings:
    """What is announced through the operator's BIRD, and how that is reached."""

    policy: Policy
    bird_socket: Path
    bird_include: Path


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Control without an edge of its own. With a database it is one of several nodes, called so, with its API there."""

    database: str | None
    node: str
    api_url: str


@dataclass(frozen=True, slots=True)
class Settings:
    data_dir: Path
    api_host: Address
    api_port: int
    edge_addresses: tuple[Address, ...]
    source_addresses: tuple[Address, ...]
    workers: int
    dispatch: str
    fast_path: str
    fast_path_flows: int
    guard: str
    allows_loopback: bool
    denied: tuple[Network, ...]
    resolvers: tuple[tuple[Address, int], ...]
    given_token: str | None
    drain_s: float = 30.0
    exchange: ExchangeSettings | None = None
    overlay: tuple[Address, int] | None = None  # where other edges come in
    rollout_bake_s: float = 8.0
    public_addresses: tuple[Address, ...] = ()
    location: tuple[float, float] | None = None
    dns: DnsSettings | None = None
    anycast: AnycastSettings | None = None
    control: ControlSettings | None = None

    @property
    def is_outpost(self) -> bool:
        """Whether this is an edge without control of its own."""
        return self.exchange is not None and bool(self.exchange.edge_name or self.exchange.join)


def read_settings(arguments: Sequence[str] | None) -> Settings:
    """Read flags and environment. Wrong ones end the process with status 2 and a sentence.

    Raises:
        StartError: the token of the environment is none.
    """
    parser = _parser()
    read = parser.parse_args(arguments)
    parser.prog = command(arguments)
    if not 0 <= read.workers <= _MOST_WORKERS:
        parser.error(f"--workers {read.workers}: 0 (one per core) to {_MOST_WORKERS}")
    if not 0 <= read.drain_s <= _MOST_DRAIN_S:
        parser.error(f"--drain-s {read.drain_s}: 0 to {_MOST_DRAIN_S} seconds")
    if not _LEAST_FLOWS <= read.fast_path_flows <= _MOST_FLOWS:
        parser.error(f"--fast-path-flows {read.fast_path_flows}: {_LEAST_FLOWS} to {_MOST_FLOWS}")
    if not 0 <= read.rollout_bake_s <= _MOST_BAKE_S:
        parser.error(f"--rollout-bake-s {read.rollout_bake_s:g}: 0 to {_MOST_BAKE_S} seconds")
    exchange = _exchange(parser, read)
    control = _control(parser, read)
    addresses = () if control else tuple(dict.fromkeys(read.edge_ip or [ip_address("127.0.0.1")]))
    for address in addresses:
        if address.is_unspecified and any(a != address and a.version == address.version for a in addresses):
            parser.error(f"--edge-ip {address} stands for all IPv{address.version} addresses: give no others with it")
    sources = tuple(dict.fromkeys(read.source_ip))
    for address in sources:
        if address.is_unspecified or address.is_multicast:
            parser.error(f"--source-ip {address} is not an address to connect from")
    given = os.environ.get(TOKEN_VARIABLE) or None
    if given and not is_token(given):
        raise StartError(f"{TOKEN_VARIABLE} must have 40 or more characters of 0-9 A-Z a-z _ -", status=2)
    return Settings(
        data_dir=read.data_dir.absolute(),
        api_host=read.api[0],
        api_port=read.api[1],
        edge_addresses=addresses,
        source_addresses=sources,
        workers=read.workers,
        dispatch=read.dispatch,
        fast_path=read.fast_path,
        fast_path_flows=read.fast_path_flows,
        guard=read.guard,
        allows_loopback=read.allow_loopback_origins
        or (not control and all(address.is_loopback for address in addresses)),
        denied=tuple(read.deny_origins),
        resolvers=tuple(read.resolver),
        given_token=given,
        drain_s=read.drain_s,
        exchange=exchange,
        overlay=_overlay(parser, read),
        rollout_bake_s=read.rollout_bake_s,
        public_addresses=_public(parser, read.public_ip),
        location=read.location,
        dns=_dns(parser, read),
        anycast=_anycast(parser, read, addresses),
        control=control,
    )


def _public(parser: argparse.ArgumentParser, given: list[Address]) -> tuple[Address, ...]:
    for address in given:
        if address.is_unspecified or address.is_multicast:
            parser.error(f"--public-ip {address} is not an address that clients can connect to")
    return tuple(dict.fromkeys(given))


def _dns(parser: argparse.ArgumentParser, read: argparse.Namespace) -> DnsSettings | None:
    if not read.dns:
        for flag in ("dns_name", "dns_ttl_s"):
            if getattr(read, flag):
                parser.error(f"--{flag.replace('_', '-')} is for --dns, which is not given")
        return None
    if read.join and read.dns_ttl_s:
        parser.error("--dns-ttl-s is for causeway up: how long answers are kept is the same everywhere")
    names = tuple(dict.fromkeys(hostname(text) for text in read.dns_name))
    if None in names:
        parser.error(f"--dns-name {' '.join(read.dns_name)}: names such as ns1.example.net")
    ttl_s = DEFAULT_TTL_S if read.dns_ttl_s is None else read.dns_ttl_s
    if not 1 <= ttl_s <= _MOST_TTL_S:
        parser.error(f"--dns-ttl-s {ttl_s}: 1 to {_MOST_TTL_S} seconds")
    return DnsSettings(tuple(dict.fromkeys(read.dns)), tuple(name for name in names if name), ttl_s)


def _anycast(
    parser: argparse.ArgumentParser, read: argparse.Namespace, addresses: tuple[Address, ...]
) -> AnycastSettings | None:
    if not read.anycast:
        for flag, value in vars(read).items():
            if flag.startswith(("anycast_", "bird_")) and value not in (None, []):
                parser.error(f"--{flag.replace('_', '-')} is for --anycast PREFIX, which is not given")
        return None
    prefixes = tuple(dict.fromkeys(read.anycast))
    for prefix in prefixes:
        own = [address for address in addresses if address.version == prefix.version]
        if not any(address.is_unspecified or address in prefix for address in own):
            parser.error(f"--anycast {prefix}: no --edge-ip is in it, so nobody would be served there")
    leave_s = Policy(prefixes).leave_s if read.anycast_leave_s is None else read.anycast_leave_s
    if not 0 <= leave_s <= _MOST_LEAVE_S:
        parser.error(f"--anycast-leave-s {leave_s}: 0 to {_MOST_LEAVE_S} seconds")
    if read.anycast_med is not None and not 0 <= read.anycast_med < LAST_RESORT_MED:
        parser.error(f"--anycast-med {read.anycast_med}: 0 to {LAST_RESORT_MED - 1}")
    usual = Terms(tuple(read.anycast_community), read.anycast_med)
    leaving = Policy(prefixes).leaving
    if read.anycast_drain_community:
        leaving = Terms(tuple(read.anycast_drain_community), leaving.med)
    for address in read.anycast_pass_to:
        if address.is_unspecified or any(address in prefix for prefix in prefixes):
            parser.error(f"--anycast-pass-to {address}: give the other PoP's address on a link between the two")
        if len([other for other in read.anycast_pass_to if other.version == address.version]) > 1:
            parser.error(f"--anycast-pass-to: give one IPv{address.version} address, of one other PoP")
        if all(prefix.version != address.version for prefix in prefixes):
            parser.error(f"--anycast-pass-to {address}: no --anycast PREFIX is of IPv{address.version}")
    policy = Policy(prefixes, usual, leaving, leave_s, tuple(read.anycast_pass_to))
    socket, include = read.bird_socket or BIRD_SOCKET, read.bird_include or BIRD_INCLUDE
    return AnycastSettings(policy, socket.absolute(), include.absolute())


def _exchange(parser: argparse.ArgumentParser, read: argparse.Namespace) -> ExchangeSettings | None:
    url = read.join or read.exchange
    if not url:
        for flag in ("name", "exchange_token_file", "exchange_ca", "exchange_plain"):
            if getattr(read, flag):
                parser.error(f"--{flag.replace('_', '-')} is for --exchange or --join, and neither is given")
        return None
    if read.join and read.exchange:
        parser.error("--join makes this an edge of another machine's control, --exchange is for control: give one")
    if read.join and "://" not in read.join:
        for flag in ("name", "exchange_token_file", "exchange_ca", "exchange_plain"):
            if getattr(read, flag):
                parser.error(f"--{flag.replace('_', '-')} is for --join URL: an invitation says all of that")
        return ExchangeSettings("", join=Path(read.join).absolute())
    if bool(read.join) != bool(read.name):
        parser.error("--join and --name belong together: an edge is called by its name, control has none")
    if read.name and not is_edge_name(read.name):
        parser.error(f"--name {read.name}: 1 to 32 of a-z, 0-9 and inner hyphens, such as fra-1; not local")
    parts = urlsplit(url)
    if parts.username or parts.password:  # which stay out of what we say
        parser.error("a URL with a user or password is seen by everybody on this machine: use --exchange-token-file")
    if parts.scheme not in ("nats", "tls") or not parts.hostname:
        parser.error(f"{url!r} is not like tls://control.example.net:4222")
    is_here = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.scheme == "nats" and not is_here and not read.exchange_plain:
        parser.error(
            f"{url} is not encrypted, and who speaks there tells edges what to do: use tls://, or --exchange-plain "
            "where the network between is private"
        )
    if read.exchange_ca and not read.exchange_ca.is_file():
        told = f"--exchange-ca {read.exchange_ca} is no file: give the certificate of nats-server, or of who signed it"
        raise StartError(told, status=2)
    token = _exchange_token(read.exchange_token_file)
    certifies = parts.scheme == "tls" and not (read.join or token or read.exchange_ca)
    return ExchangeSettings(url, read.name, token, read.exchange_ca, certifies=certifies)


def _control(parser: argparse.ArgumentParser, read: argparse.Namespace) -> ControlSettings | None:
    if not read.no_edge:
        for flag in ("database", "node", "api_url"):
            if getattr(read, flag):
                parser.error(f"--{flag.replace('_', '-')} is for causeway control")
        return None
    if not read.exchange:
        parser.error("--exchange URL is needed: control has no edge of its own, and reaches others over nats-server")
    for flag in ("edge_ip", "overlay", "anycast", "join"):
        if getattr(read, flag):
            parser.error(f"--{flag.replace('_', '-')} is for a machine with an edge: causeway up or causeway edge")
    for flag in ("node", "api_url"):
        if getattr(read, flag) and not read.database:
            parser.error(f"--{flag.replace('_', '-')} is for --database URL, which is not given")
    if read.database:
        try:
            check_database_url(read.database)
        except BadUrl as error:
            parser.error(f"--database: {error}")
    if read.database and not read.api_url and read.api[0].is_unspecified:
        parser.error(f"--api-url URL is needed: others cannot reach {socket_text(*read.api)}")
    node = read.node or gethostname().partition(".")[0].lower()
    if not is_edge_name(node):
        parser.error(f"--node {node}: 1 to 32 of a-z, 0-9 and inner hyphens, such as control-1; another for each node")
    return ControlSettings(read.database, node, read.api_url or f"http://{socket_text(*read.api)}")


def _overlay(parser: argparse.ArgumentParser, read: argparse.Namespace) -> tuple[Address, int] | None:
    if read.overlay is None:
        return None
    host, port = read.overlay
    is_certified = (read.join and "://" not in read.join) or (
        read.exchange and read.exchange.startswith("tls://") and not (read.exchange_token_file or read.exchange_ca)
    )
    if not is_certified:
        parser.error(
            "--overlay needs edges that prove who they are: control with --exchange tls://HOST:PORT and no token or CA "
            "of your own, edges with --join FILE"
        )
    if host.is_unspecified or host.is_multicast or not port:
        parser.error(f"--overlay {host}: other edges connect there: an address of this machine and a port")
    return host, port


def _exchange_token(file: Path | None) -> str | None:
    try:
        token = file.read_text().strip() if file else None
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"--exchange-token-file {file} cannot be read: {error}", status=2) from error
    if token == "":
        raise StartError(f"--exchange-token-file {file} is empty: put the token of nats-server there", status=2)
    return token


def command(arguments: Sequence[str] | None) -> str:
    """What was typed to get here."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--no-edge" in given:
        return "causeway control"
    return "causeway edge" if any(argument.startswith("--join") for argument in given) else "causeway up"


def is_token(text: str) -> bool:
    """Whether it is what official clients accept as a token."""
    return bool(_TOKEN.fullmatch(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="causeway up", description="Run an edge, its control plane and its API on this machine."
    )
    add = parser.add_argument
    add("--data-dir", type=Path, default=Path("causeway-data"), metavar="DIR", help="state and token")
    add("--api", type=_socket, default=DEFAULT_API, metavar="HOST:PORT", help=f"default {DEFAULT_API}")
    add("--edge-ip", type=_address, action="append", metavar="IP", help="repeatable; default 127.0.0.1")
    add("--source-ip", type=_address, action="append", default=[], metavar="IP", help="repeatable; default any")
    add("--workers", type=int, default=0, metavar="N", help="0: one per core")
    add("--dispatch", choices=DISPATCH, default=DISPATCH[0], help="port ranges on one socket, in the kernel")
    add("--fast-path", choices=FAST_PATH, default=FAST_PATH[0], help="plain flows carried by the kernel")
    add("--fast-path-flows", type=int, default=131_072, metavar="N", help="room in the kernel; IPv6: a quarter of it")
    add("--guard", choices=GUARD, default=GUARD[0], help="packets judged before the stack sees them (XDP)")
    add("--overlay", type=_socket, metavar="IP:PORT", help="listen there for other edges; default off")
    add("--drain-s", type=int, default=30, metavar="S", help="how long connections may go on at a stop or an upgrade")
    add("--allow-loopback-origins", action="store_true", help="even when an edge address is not loopback")
    add("--deny-origins", type=_network, action="append", default=[], metavar="PREFIX", help="repeatable")
    add("--resolver", type=_resolver, action="append", default=[], metavar="IP:PORT", help="repeatable")
    add("--public-ip", type=_address, action="append", default=[], metavar="IP", help="what names are answered with")
    add("--location", type=_location, metavar="LAT,LON", help="degrees north and east of this machine")
    add("--dns", type=_resolver, action="append", default=[], metavar="IP[:PORT]", help="answer names here; repeatable")
    add("--dns-name", action="append", default=[], metavar="NAME", help="of a name server; default ns1 in each zone")
    add("--dns-ttl-s", type=int, metavar="S", help=f"how long answers are kept; default {DEFAULT_TTL_S}")
    add("--exchange", metavar="URL", help="be the control of edges on other machines, over this nats-server")
    add("--join", metavar="FILE|URL", help="be an edge of the control that wrote this file, or over this nats-server")
    add("--name", metavar="NAME", help="of this edge, with --join URL")
    add("--exchange-token-file", type=Path, metavar="FILE", help="the token that nats-server asks for")
    add(
        "--exchange-ca", type=Path, metavar="FILE", help="who vouches for nats-server; default: who this machine trusts"
    )
    add("--rollout-bake-s", type=float, default=8.0, metavar="S", help="each stage of a rollout is looked at so long")
    add("--exchange-plain", action="store_true", help="allow nats:// to another machine")
    add("--no-edge", action="store_true", help="serve nobody here: control alone")
    add("--database", metavar="URL", help="the PostgreSQL that control nodes share; default SQLite in --data-dir")
    add("--node", metavar="NAME", help="of this control node; default: what the machine is called")
    add("--api-url", metavar="URL", help="where others reach its API; default http:// and --api")
    add("--anycast", type=_anycast_prefix, action="append", default=[], metavar="PREFIX", help="announced by BIRD")
    add("--anycast-community", type=_community, action="append", default=[], metavar="A:B[:C]", help="repeatable")
    add("--anycast-med", type=int, metavar="N", help="default: none")
    add("--anycast-drain-community", type=_community, action="append", default=[], metavar="A:B[:C]", help="repeatable")
    add("--anycast-leave-s", type=int, metavar="S", help="between worse terms and withdrawal; default 3")
    add("--anycast-pass-to", type=_address, action="append", default=[], metavar="IP", help="one of each family")
    add("--bird-socket", type=Path, metavar="PATH", help=f"default {BIRD_SOCKET}")
    add("--bird-include", type=Path, metavar="FILE", help=f"default {BIRD_INCLUDE}")
    return parser


def _socket(text: str) -> tuple[Address, int]:
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 127.0.0.1:8787 or [::1]:8787")
    return _address(host), int(port)


def _resolver(text: str) -> tuple[Address, int]:
    """A port may be left out: DNS has its own."""
    try:
        return ip_address(text), 53
    except ValueError:
        return _socket(text)


def _location(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        latitude = longitude = 999.0
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        told = f"{text!r} is not like 50.11,8.68: degrees north and east, south and west below 0"
        raise argparse.ArgumentTypeError(told)
    return latitude, longitude


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address") from None


def _network(text: str) -> Network:
    try:
        return parse_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a prefix such as 10.0.0.0/8: {error}") from None


def _anycast_prefix(text: str) -> Network:
    try:
        return parse_anycast(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a prefix such as 198.18.100.7/32: {error}") from None


def _community(text: str) -> Community:
    try:
        return parse_community(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
