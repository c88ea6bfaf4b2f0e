"""An application: what the operator asked for, as frozen values whose existence proves that they are valid.

Pure. Knows the rules of one application alone; what depends on others is in `claims` and in control.
Field names are those of the Cloudflare v4 API; our own live in `Extension` (`x_causeway`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from causeway.model.limit import Limit
from causeway.model.minecraft import Minecraft
from causeway.model.paths import Paths

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# FTP, SSH, Telnet, SSH as many move it, RDP, VNC.
_LOGIN_PORTS = frozenset({21, 22, 23, 2222, 3389, 5900})


class Transport(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class DnsType(StrEnum):
    CNAME = "CNAME"
    ADDRESS = "ADDRESS"


class ProxyProtocol(StrEnum):
    OFF = "off"
    V1 = "v1"
    V2 = "v2"
    SIMPLE = "simple"


class OriginFamily(StrEnum):
    """`type` of an origin name: the empty string asks for A and AAAA."""

    ANY = ""
    A = "A"
    AAAA = "AAAA"


class UdpHeader(StrEnum):
    """Which datagrams of a session carry a PROXY v2 header."""

    FIRST = "first"
    EVERY = "every"


class OnDelete(StrEnum):
    DRAIN = "drain"
    CLOSE = "close"


class Carrier(StrEnum):
    """Who is to move the bytes."""

    AUTO = "auto"
    KERNEL = "kernel"
    ENGINE = "engine"


class Balance(StrEnum):
    """Which of several origins a client gets."""

    ORDER = "order"
    HASH = "hash"


class Sensitivity(StrEnum):
    """How little it takes for automatic mitigation to act; off: never."""

    OFF = "off"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Connectivity(StrEnum):
    ALL = "all"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True, slots=True)
class Ports:
    """`first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def overlaps(self, other: Ports) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Dns:
    type: DnsType
    name: str


@dataclass(frozen=True, slots=True)
class DirectOrigin:
    """One entry of `origin_direct`."""

    address: Address
    ports: Ports

    def text(self, transport: Transport) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{transport}://{host}:{self.ports}"


@dataclass(frozen=True, slots=True)
class NamedOrigin:
    """`origin_dns` with `origin_port`."""

    name: str
    family: OriginFamily
    ttl_s: int
    ports: Ports


@dataclass(frozen=True, slots=True)
class EdgeIps:
    """Dynamic: this edge's addresses of a family. Static: the ones that are listed."""

    connectivity: Connectivity = Connectivity.ALL
    static: tuple[Address, ...] = ()

    @property
    def is_static(self) -> bool:
        return bool(self.static)


@dataclass(frozen=True, slots=True)
class Extension:
    """`x_causeway`: what the original does not have. Times in seconds, 0 switches one off.

    `stated` are the fields that the operator gave, even where that is the default: they are shown again.
    """

    name: str | None = None
    proxy_protocol_from: tuple[Network, ...] = ()
    proxy_header_timeout_s: float = 3.0
    udp_header: UdpHeader = UdpHeader.FIRST
    connect_timeout_s: float = 3.0
    idle_timeout_s: float = 3600.0
    half_close_timeout_s: float = 0.0
    no_progress_timeout_s: float = 300.0
    udp_idle_timeout_s: float = 60.0
    carrier: Carrier = Carrier.AUTO
    transparent: bool = False
    balance: Balance = Balance.ORDER
    weights: tuple[int, ...] = ()
    on_delete: OnDelete = OnDelete.DRAIN
    drain_s: float = 30.0
    limits: tuple[Limit, ...] = ()
    mitigation: Sensitivity = Sensitivity.MEDIUM
    logins: bool | None = None
    minecraft: Minecraft | None = None
    paths: Paths = ()
    stated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Application:
    id: str
    zone_id: str
    dns: Dns
    transport: Transport
    edge_ports: Ports
    origins: tuple[DirectOrigin, ...] | NamedOrigin
    created_on: datetime
    modified_on: datetime
    edge_ips: EdgeIps = EdgeIps()
    proxy_protocol: ProxyProtocol = ProxyProtocol.OFF
    ip_firewall: bool = False
    is_smart: bool = False  # `argo_smart_routing`: control chooses the ways of its flows
    extension: Extension = field(default_factory=Extension)

    @property
    def protocol(self) -> str:
        """As the API writes it, such as `tcp/22` or `udp/1000-2000`."""
        return f"{self.transport}/{self.edge_ports}"

    @property
    def takes_logins(self) -> bool:
        """Whether clients log in, so that who tries again and again is turned away: as stated, else by its ports."""
        if self.extension.logins is not None:
            return self.extension.logins
        origins = (self.origins,) if isinstance(self.origins, NamedOrigin) else self.origins
        ports = [self.edge_ports, *(origin.ports for origin in origins)]
        return self.transport is Transport.TCP and any(p.first == p.last and p.first in _LOGIN_PORTS for p in ports)

    def edge_addresses(self, available: tuple[Address, ...]) -> tuple[Address, ...]:
        """Where the application listens on an edge that has these addresses."""
        if self.edge_ips.is_static:
            return tuple(address for address in self.edge_ips.static if address in available)
        versions = {Connectivity.ALL: (4, 6), Connectivity.IPV4: (4,), Connectivity.IPV6: (6,)}
        return tuple(a for a in available if a.version in versions[self.edge_ips.connectivity])
