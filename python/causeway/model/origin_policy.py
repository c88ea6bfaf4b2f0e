"""Which origin addresses an operator may name at all.

Pure. The engine checks the same again at connect time, after name resolution, with `Policy.prefixes`; this is the
early, clear answer. Private networks are fine: they are where a self-hoster's services live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from causeway.model.application import Address, DirectOrigin, Network

_METADATA = "link-local addresses and metadata services of clouds are never origins"
_GROUP = "multicast and broadcast addresses are no origins"
_NOWHERE = "unspecified addresses are no origins"
_LOOPBACK = (
    "loopback origins are allowed when every edge address is loopback, or with causeway up --allow-loopback-origins"
)
ALWAYS_DENIED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(text), why)
    for text, why in (
        ("0.0.0.0/8", _NOWHERE),
        ("::/128", _NOWHERE),
        ("169.254.0.0/16", _METADATA),
        ("fe80::/10", _METADATA),
        ("100.100.100.200/32", _METADATA),  # Alibaba
        ("168.63.129.16/32", _METADATA),  # Azure
        ("192.0.0.192/32", _METADATA),  # Oracle, first generation
        ("fd00:ec2::/32", _METADATA),  # AWS
        ("fd20:ce::254/128", _METADATA),  # Google
        ("fd00:c1::a9fe:a9fe/128", _METADATA),  # Oracle
        ("224.0.0.0/4", _GROUP),
        ("255.255.255.255/32", _GROUP),
        ("ff00::/8", _GROUP),
    )
)
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

# IPv6 spellings of an IPv4 address: where its 32 bits begin. A translator or tunnel on the way would undo them.
_SPELLINGS: tuple[tuple[IPv6Network, int], ...] = (
    (IPv6Network("::ffff:0:0/96"), 96),  # IPv4-mapped
    (IPv6Network("::/96"), 96),  # IPv4-compatible
    (IPv6Network("64:ff9b::/96"), 96),  # NAT64, RFC 6052
    (IPv6Network("64:ff9b:1::/96"), 96),  # NAT64, RFC 8215
    (IPv6Network("2002::/16"), 16),  # 6to4
)
_LEAST_COMPATIBLE = 1 << 24  # below are `::`, `::1` and their neighbours, which are IPv6 addresses of their own


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """`own_sockets` are those of API and control; an unspecified address there stands for all local ones."""

    allows_loopback: bool
    denied: tuple[Network, ...] = ()
    own_sockets: tuple[tuple[Address, int], ...] = ()
    is_local: Callable[[Address], bool] = lambda address: address.is_loopback

    def refusal(self, origin: DirectOrigin) -> str | None:
        """Say why this origin is refused, or nothing if it is fine."""
        for meaning in meanings(origin.address):
            for network, why in self._denials():
                if network.version == meaning.version and meaning in network:
                    return why
            for own, port in self.own_sockets:
                if origin.ports.first <= port <= origin.ports.last and self._is_own(meaning, own):
                    return f"port {port} there is causeway's own API"
        return None

    def prefixes(self) -> tuple[Network, ...]:
        """What the engine must not connect to, every spelling written out (it reads IPv4-mapped ones itself)."""
        found: dict[Network, None] = {}
        for network, _ in self._denials():
            found |= dict.fromkeys((network, *_spelled(network)))
        return tuple(found)

    def _denials(self) -> Iterator[tuple[Network, str]]:
        yield from ALWAYS_DENIED
        if not self.allows_loopback:
            yield from ((network, _LOOPBACK) for network in LOOPBACK)
        yield from ((network, f"{network} is on the operator's list of --deny-origins") for network in self.denied)

    def _is_own(self, address: Address, own: Address) -> bool:
        return address in meanings(own) or (own.is_unspecified and (address.is_loopback or self.is_local(address)))


def meanings(address: Address) -> tuple[Address, ...]:
    """The address itself, and the IPv4 addresses that it may be a spelling of."""
    if isinstance(address, IPv4Address):
        return (address,)
    found: list[Address] = [address]
    for prefix, at in _SPELLINGS:
        if address in prefix:
            embedded = int(address) >> (96 - at) & 0xFFFF_FFFF
            if int(prefix.network_address) or embedded >= _LEAST_COMPATIBLE:
                found.append(IPv4Address(embedded))
    return tuple(found)


def _spelled(network: Network) -> Iterator[IPv6Network]:
    """Every IPv6 spelling of an IPv4 prefix, but for the IPv4-mapped one."""
    if not isinstance(network, IPv4Network):
        return
    bits = int(network.network_address)
    for prefix, at in _SPELLINGS[1:]:
        if int(prefix.network_address) or bits >= _LEAST_COMPATIBLE:
            start = IPv6Address(int(prefix.network_address) | bits << (96 - at))
            yield IPv6Network((start, at + network.prefixlen))


def parse_network(text: str) -> Network:
    """Read a prefix such as `10.0.0.0/8`; an address alone means itself.

    Raises:
        ValueError: it is no prefix, or has host bits set.
    """
    return ip_network(text, strict=True)
