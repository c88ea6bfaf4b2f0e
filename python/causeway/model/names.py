"""Which addresses the names of applications are answered with: the table that name servers serve (`table.rs`).

Pure: what is known of edges comes in, and what is not fit stays out. Knows nothing of where a client is: that is the
name server's, which takes the nearest of what is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from causeway.model.application import Address, Application
from causeway.model.hostname import hostname

FORMAT = 1
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class EdgeSeen:
    """One edge, as names go by it. `public`: what its clients reach it by, where that is not what it listens on.

    `is_fit`: it is heard of, and takes new clients. `serves`: applications by id; `refused`: where it could not listen.
    `name_servers`: where it answers names, and what it is called as one.
    """

    addresses: tuple[Address, ...]
    public: tuple[Address, ...] = ()
    location: tuple[float, float] | None = None
    is_fit: bool = True
    is_drained: bool = False
    serves: frozenset[str] = frozenset()
    refused: frozenset[tuple[str, str]] = frozenset()
    name_servers: tuple[Address, ...] = ()
    server_names: tuple[str, ...] = ()

    def answers_for(self, application: Application) -> Iterator[Address]:
        """Where clients reach the application on this edge."""
        if application.id not in self.serves:
            return
        listens = application.edge_addresses(self.addresses)
        running = [at for at in listens if (application.id, str(at)) not in self.refused]
        if self.public:
            versions = {at.version for at in running}
            yield from (at for at in self.public if at.version in versions)
        else:
            yield from running


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator has said of the name servers. Without names a zone's is `ns1` within it."""

    ttl_s: int
    server_names: tuple[str, ...] = ()
    server_addresses: tuple[Address, ...] = ()

    def servers_in(self, zone: str, edges: Mapping[str, EdgeSeen]) -> dict[str, tuple[Address, ...]]:
        """Name servers of a zone, control's own first; also those that are away now, which resolvers pass over."""
        found = dict.fromkeys(self.server_names or (f"ns1.{zone}",), self.server_addresses)
        for name, edge in sorted(edges.items()):
            for server in edge.server_names or (f"ns-{name}.{zone}",) if edge.name_servers else ():
                if not hostname(server):
                    continue  # the zone's name leaves no room
                found[server] = tuple(dict.fromkeys((*found.get(server, ()), *edge.name_servers)))
        return found


class Zone(msgspec.Struct, frozen=True):
    name: str
    servers: tuple[str, ...]


class Host(msgspec.Struct, frozen=True):
    name: str
    addresses: tuple[str, ...]


class Site(msgspec.Struct, frozen=True):
    """One edge of a name. Without a location it is as good for everybody."""

    addresses: tuple[str, ...]
    location: tuple[float, float] | None = None


class Name(msgspec.Struct, frozen=True):
    name: str
    sites: tuple[Site, ...]


class Names(msgspec.Struct, frozen=True):
    """All of a table but its number: two that are equal are one table."""

    ttl_s: int
    zones: tuple[Zone, ...]
    hosts: tuple[Host, ...]
    names: tuple[Name, ...]

    def table(self, serial: int) -> bytes:
        """As name servers read it. `serial` says to everybody that it is a newer one."""
        return _encode({"format": FORMAT, "serial": serial, **msgspec.structs.asdict(self)})


class Numbered(msgspec.Struct, frozen=True):
    """A table as it was written, to go on from."""

    format: int
    serial: int
    ttl_s: int
    zones: tuple[Zone, ...]
    hosts: tuple[Host, ...]
    names: tuple[Name, ...]

    def content(self) -> Names:
        return Names(self.ttl_s, self.zones, self.hosts, self.names)


read_table = msgspec.json.Decoder(Numbered).decode  # raises MsgspecError


def names_of(
    applications: Iterable[Application], zones: Iterable[str], edges: Mapping[str, EdgeSeen], terms: Terms
) -> Names:
    """Every name of the applications with each edge that serves as many of them as any does, and is fit.

    Where none is fit, all are answered that are not drained: who decides may be who is cut off.
    """
    known = sorted(zone for zone in set(zones) if hostname(f"ns1.{zone}"))  # no name fits below a longer one
    by_name: dict[str, list[Application]] = {}
    for application in applications:
        by_name.setdefault(application.dns.name, []).append(application)
    servers = {zone: terms.servers_in(zone, edges) for zone in known}
    hosts = {name: addresses for of in servers.values() for name, addresses in of.items()}
    seen = [edge for _, edge in sorted(edges.items())]
    return Names(
        terms.ttl_s,
        tuple(Zone(zone, tuple(servers[zone])) for zone in known),
        tuple(Host(name, _texts(addresses)) for name, addresses in sorted(hosts.items())),
        tuple(Name(name, _sites(by_name[name], seen)) for name in sorted(by_name)),
    )


def _sites(applications: list[Application], edges: Sequence[EdgeSeen]) -> tuple[Site, ...]:
    counts = [_counts(applications, edge) for edge in edges]
    # The control machine's own edge may be there for nobody but itself.
    world = {at.version for count in counts for at in count if not at.is_loopback}
    counts = [{at: n for at, n in count.items() if not (at.is_loopback and at.version in world)} for count in counts]
    candidates = [(edge, count) for edge, count in zip(edges, counts, strict=True) if count and not edge.is_drained]
    chosen = [found for found in candidates if found[0].is_fit] or candidates
    found: list[Site] = []
    for edge, count in chosen:
        best = {v: max((c[at] for _, c in chosen for at in c if at.version == v), default=0) for v in (4, 6)}
        if addresses := [at for at in count if count[at] == best[at.version]]:
            found.append(Site(_texts(addresses), edge.location))
    return tuple(found)


def _counts(applications: list[Application], edge: EdgeSeen) -> Mapping[Address, int]:
    """How many of a name's applications there are at each address: a client of the name may want any of them."""
    counts: dict[Address, int] = {}
    for application in applications:
        for address in set(edge.answers_for(application)):
            counts[address] = counts.get(address, 0) + 1
    return counts


def _texts(addresses: Iterable[Address]) -> tuple[str, ...]:
    return tuple(str(at) for at in sorted(addresses, key=lambda at: (at.version, int(at))))
