"""Which origin addresses an operator may name at all.

Pure. The engine checks the same again at connect time, after name resolution; this is the early, clear answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from causeway.model.application import Address, Network

# Refused always: no service of an operator lives there, and a request to them can hurt (metadata of clouds).
METADATA: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "168.63.129.16/32",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """`own_sockets` are the API and control addresses of this machine; an unspecified address stands for all."""

    allows_loopback: bool
    denied: tuple[Network, ...] = ()
    own_sockets: tuple[tuple[Address, int], ...] = ()
    own_addresses: tuple[Address, ...] = ()

    def refusal(self, address: Address, first_port: int, last_port: int) -> str | None:
        """Say why this origin is refused, or nothing if it is fine."""
        judged = canonical(address)
        if judged.is_unspecified:
            return "it is the unspecified address"
        if judged.is_multicast or judged == _BROADCAST:
            return "it is a multicast or broadcast address"
        if any(judged in network for network in METADATA if network.version == judged.version):
            return "it is a link-local or cloud-metadata address"
        if judged.is_loopback and not self.allows_loopback:
            return (
                "it is a loopback address: they are allowed when every edge address is loopback "
                "or with causeway up --allow-loopback-origins"
            )
        for network in self.denied:
            if network.version == judged.version and judged in network:
                return f"{network} is on the operator's deny list"
        for own, port in self.own_sockets:
            if first_port <= port <= last_port and self._is_own(judged, canonical(own)):
                return f"port {port} there is causeway's own API"
        return None

    def _is_own(self, address: Address, own: Address) -> bool:
        return address == own or (own.is_unspecified and (address.is_loopback or address in self.own_addresses))


def canonical(address: Address) -> Address:
    """See through IPv4-mapped and NAT64 spellings of an IPv4 address."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def parse_network(text: str) -> Network:
    """Read a prefix such as `10.0.0.0/8`; an address alone means itself.

    Raises:
        ValueError: it is no prefix, or has host bits set.
    """
    network = ip_network(text, strict=True)
    if not isinstance(network, IPv4Network | IPv6Network):
        raise TypeError(text)
    return network
