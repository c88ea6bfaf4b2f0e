"""A table of names as files of Knot DNS: a zone file with every edge, and per country the nearest one (`mod-geoip`).

Pure. Knot answers by the country of a client, so each country has the edges that are nearest to its place, as the
embedded name server would choose (`table.rs`); who is of no country that it knows gets all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from math import asin, cos, radians, sin, sqrt

from causeway.model.hostname import is_within
from causeway.model.names import Name, Numbered, Site, Zone

MOST_ADDRESSES = 4  # of an answer by place, as in table.rs
_SAME_PLACE_KM = 50.0
_EARTH_KM = 6371.0
_SERVERS_TTL_S = 3600
Degrees = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Files:
    """The text of each file by its name."""

    by_name: Mapping[str, str]


def countries() -> dict[str, Degrees]:
    """Where each is: a city that many of its people live near."""
    text = files("causeway.model").joinpath("countries.csv").read_text()
    lines = (line.split(",") for line in text.splitlines() if not line.startswith("#"))
    return {code: (float(latitude), float(longitude)) for code, latitude, longitude in lines}


def knot_files(table: Numbered, places: Mapping[str, Degrees], folder: str, geo_file: str, geo_key: str) -> Files:
    """Zone files, configuration of the module, and a piece of knot.conf that names them where they are in `folder`."""
    made: dict[str, str] = {}
    pieces = ["mod-geoip:"]
    for zone in table.zones:
        pieces += [
            f"  - id: {zone.name}",
            f'    config-file: "{folder}/{zone.name}.geo"',
            f"    ttl: {table.ttl_s}",
            "    mode: geodb",
            f'    geodb-file: "{geo_file}"',
            f"    geodb-key: {geo_key}",
        ]
    pieces.append("zone:")
    for zone in table.zones:
        names = [name for name in table.names if _zone_of(name.name, table.zones) is zone]
        made[f"{zone.name}.zone"] = "\n".join(_zone_file(table, zone, names)) + "\n"
        made[f"{zone.name}.geo"] = "".join(f"{line}\n" for name in names for line in _by_country(name, places))
        pieces += [
            f"  - domain: {zone.name}.",
            f'    file: "{folder}/{zone.name}.zone"',
            "    zonefile-load: whole",
            "    journal-content: none",
            f"    module: mod-geoip/{zone.name}",
        ]
    return Files({"causeway.conf": "\n".join(pieces) + "\n", **made})


def _zone_of(name: str, zones: Sequence[Zone]) -> Zone | None:
    return max((zone for zone in zones if is_within(name, zone.name)), key=lambda zone: len(zone.name), default=None)


def _zone_file(table: Numbered, zone: Zone, names: Iterable[Name]) -> Iterator[str]:
    first, ttl_s = zone.servers[0], table.ttl_s
    yield f"{zone.name}. {ttl_s} SOA {first}. hostmaster.{zone.name}. {table.serial} 3600 600 604800 {ttl_s}"
    for server in zone.servers:
        yield f"{zone.name}. {_SERVERS_TTL_S} NS {server}."
    taken = {name.name for name in names}
    for host in table.hosts:
        if _zone_of(host.name, table.zones) is zone and host.name not in taken:
            yield from (f"{host.name}. {_SERVERS_TTL_S} {_type(at)} {at}" for at in host.addresses)
    for name in names:
        found = dict.fromkeys(at for site in name.sites for at in site.addresses)
        yield from (f"{name.name}. {ttl_s} {_type(at)} {at}" for at in found)


def _by_country(name: Name, places: Mapping[str, Degrees]) -> Iterator[str]:
    if not any(site.location for site in name.sites):
        return
    yield f"{name.name}:"
    for country, place in sorted(places.items()):
        yield f'  - geo: "{country}"'
        for kind in ("A", "AAAA"):
            if found := nearest(name.sites, place, kind):
                yield f"    {kind}: [ {', '.join(found)} ]"


def nearest(sites: Iterable[Site], place: Degrees, kind: str) -> list[str]:
    """Addresses of that type on the edges that are nearest; without any place, on all."""
    having = [(site, [at for at in site.addresses if _type(at) == kind]) for site in sites]
    having = [(site, addresses) for site, addresses in having if addresses]
    placed = [site.location for site, _ in having if site.location]
    if placed:
        near = min(placed, key=lambda at: _distance_km(at, place))
        having = [(s, found) for s, found in having if s.location and _distance_km(s.location, near) <= _SAME_PLACE_KM]
    return [at for _, addresses in having for at in addresses][:MOST_ADDRESSES]


def _type(address: str) -> str:
    return "A" if ip_address(address).version == 4 else "AAAA"


def _distance_km(one: Degrees, other: Degrees) -> float:
    north, other_north = radians(one[0]), radians(other[0])
    half_north, half_east = (other_north - north) / 2, radians(other[1] - one[1]) / 2
    chord = sin(half_north) ** 2 + cos(north) * cos(other_north) * sin(half_east) ** 2
    return 2 * _EARTH_KM * asin(sqrt(min(1.0, chord)))
