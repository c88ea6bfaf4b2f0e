"""A table of names as files of Knot DNS: which edges each country has, and what is in the zone."""

import pytest

from causeway.model.knot import countries, knot_files, nearest
from causeway.model.names import Host, Name, Numbered, Site, Zone

FRANKFURT = Site(("192.0.2.1", "2001:db8::1"), (50.11, 8.68))
FRANKFURT_TOO = Site(("192.0.2.2",), (50.10, 8.70))
NEW_YORK = Site(("192.0.2.9",), (40.71, -74.01))
NOWHERE = Site(("192.0.2.99",))
TABLE = Numbered(
    1, 7, 20,
    (Zone("example.net", ("ns1.example.net", "ns2.example.org")), Zone("deep.example.net", ("ns1.example.net",))),
    (Host("ns1.example.net", ("192.0.2.53",)), Host("ns2.example.org", ("192.0.2.54",))),
    (
        Name("ssh.example.net", (FRANKFURT, FRANKFURT_TOO, NEW_YORK, NOWHERE)),
        Name("plain.example.net", (NOWHERE,)),
        Name("x.deep.example.net", (NEW_YORK,)),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("sites", "country", "kind", "expected"),
    [
        ((FRANKFURT, FRANKFURT_TOO, NEW_YORK, NOWHERE), "DE", "A", ["192.0.2.1", "192.0.2.2"]),
        ((FRANKFURT, FRANKFURT_TOO, NEW_YORK, NOWHERE), "CA", "A", ["192.0.2.9"]),
        ((FRANKFURT, NEW_YORK), "CA", "AAAA", ["2001:db8::1"]),
        ((NEW_YORK,), "CA", "AAAA", []),
        ((NOWHERE,), "DE", "A", ["192.0.2.99"]),
        ((), "DE", "A", []),
    ],
)
def test_a_country_has_the_nearest_edges_of_each_family(
    sites: tuple[Site, ...], country: str, kind: str, expected: list[str]
) -> None:
    assert nearest(sites, countries()[country], kind) == expected


def test_every_country_is_somewhere() -> None:
    places = countries()
    assert len(places) > 240
    assert all(len(code) == 2 and -90 <= n <= 90 and -180 <= e <= 180 for code, (n, e) in places.items())


def test_a_zone_has_its_own_names_and_a_country_only_where_places_matter() -> None:
    places = {"DE": (52.5, 13.37)}
    files = knot_files(TABLE, places, "/etc/knot/causeway", "/var/geo.mmdb", "country/iso_code").by_name
    assert sorted(files) == [
        "causeway.conf", "deep.example.net.geo", "deep.example.net.zone", "example.net.geo", "example.net.zone",
    ]  # fmt: skip
    assert files["example.net.zone"].splitlines() == [
        "example.net. 20 SOA ns1.example.net. hostmaster.example.net. 7 3600 600 604800 20",
        "example.net. 3600 NS ns1.example.net.",
        "example.net. 3600 NS ns2.example.org.",
        "ns1.example.net. 3600 A 192.0.2.53",
        "ssh.example.net. 20 A 192.0.2.1",
        "ssh.example.net. 20 AAAA 2001:db8::1",
        "ssh.example.net. 20 A 192.0.2.2",
        "ssh.example.net. 20 A 192.0.2.9",
        "ssh.example.net. 20 A 192.0.2.99",
        "plain.example.net. 20 A 192.0.2.99",
    ]
    assert files["example.net.geo"].splitlines() == [
        "ssh.example.net:",
        '  - geo: "DE"',
        "    A: [ 192.0.2.1, 192.0.2.2 ]",
        "    AAAA: [ 2001:db8::1 ]",
    ]
    assert files["deep.example.net.geo"].splitlines()[2] == "    A: [ 192.0.2.9 ]"
    assert "    geodb-key: country/iso_code" in files["causeway.conf"].splitlines()
    assert '    file: "/etc/knot/causeway/deep.example.net.zone"' in files["causeway.conf"].splitlines()
