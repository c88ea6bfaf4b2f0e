"""Which addresses a name is answered with: a table of edges in, the sites of the name out."""

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import msgspec
import pytest

from causeway.model.application import (
    Application,
    Connectivity,
    DirectOrigin,
    Dns,
    DnsType,
    EdgeIps,
    Ports,
    Transport,
)
from causeway.model.names import EdgeSeen, Terms, names_of, read_table

NOW = datetime(2026, 11, 30, tzinfo=UTC)
TERMS = Terms(ttl_s=20)


def application(number: int, name: str = "ssh.example.net", edge_ips: EdgeIps | None = None) -> Application:
    return Application(
        id=f"app{number}", zone_id="zone", dns=Dns(DnsType.CNAME, name), transport=Transport.TCP,
        edge_ports=Ports(number, number), origins=(DirectOrigin(ip_address("10.0.0.1"), Ports(22, 22)),),
        created_on=NOW, modified_on=NOW, edge_ips=edge_ips or EdgeIps(),
    )  # fmt: skip


def edge(*addresses: str, serves: str = "app1", **changes: object) -> EdgeSeen:
    made = EdgeSeen(tuple(map(ip_address, addresses)), serves=frozenset(serves.split()))
    return replace(made, **changes)  # type: ignore[arg-type]


def named(edges: list[EdgeSeen]) -> dict[str, EdgeSeen]:
    return {f"edge-{number}": one for number, one in enumerate(edges)}


def answered(edges: list[EdgeSeen], *applications: Application) -> list[str]:
    """The addresses of the first application's name."""
    names = names_of(applications or (application(1),), ["example.net"], named(edges), TERMS)
    return sorted(at for site in names.names[0].sites for at in site.addresses)


FIT, OTHER = edge("192.0.2.1"), edge("192.0.2.2")
CASES = [  # what is the matter with an edge                                     edges, what is answered
    ("nothing", [FIT, OTHER], ["192.0.2.1", "192.0.2.2"]),
    ("one is silent", [replace(FIT, is_fit=False), OTHER], ["192.0.2.2"]),
    ("one is drained", [replace(FIT, is_drained=True), OTHER], ["192.0.2.2"]),
    ("one does not serve it yet", [edge("192.0.2.1", serves=""), OTHER], ["192.0.2.2"]),
    ("one cannot listen", [replace(FIT, refused=frozenset({("app1", "192.0.2.1")})), OTHER], ["192.0.2.2"]),
    ("another application cannot", [replace(FIT, refused=frozenset({("app2", "192.0.2.1")}))], ["192.0.2.1"]),
    ("all are silent: who is cut off?", [replace(FIT, is_fit=False), replace(OTHER, is_fit=False)],
     ["192.0.2.1", "192.0.2.2"]),
    ("all are silent, one was drained", [replace(FIT, is_fit=False, is_drained=True), replace(OTHER, is_fit=False)],
     ["192.0.2.2"]),
    ("all are drained", [replace(FIT, is_drained=True)], []),
    ("there is none", [], []),
    ("control's own is for itself", [edge("127.0.0.1"), OTHER], ["192.0.2.2"]),
    ("also when the others are silent", [edge("127.0.0.1"), replace(OTHER, is_fit=False)], ["192.0.2.2"]),
    ("all of one machine", [edge("127.0.0.1"), edge("127.0.0.2")], ["127.0.0.1", "127.0.0.2"]),
    ("loopback of one family", [edge("127.0.0.1", "::1"), edge("2001:db8::1")], ["127.0.0.1", "2001:db8::1"]),
    ("it is reached by another address", [replace(FIT, public=(ip_address("198.51.100.1"),))], ["198.51.100.1"]),
    ("of a family that it has not", [replace(FIT, public=(ip_address("2001:db8::1"),))], []),
]  # fmt: skip


@pytest.mark.parametrize(("edges", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_name_is_answered_with_fit_edges(edges: list[EdgeSeen], expected: list[str]) -> None:
    assert answered(edges) == expected


def test_the_addresses_are_those_of_the_family_or_those_that_are_named() -> None:
    edges = [edge("192.0.2.1", "2001:db8::1"), edge("192.0.2.2", "2001:db8::2")]
    for edge_ips, expected in (
        (EdgeIps(), ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]),
        (EdgeIps(Connectivity.IPV4), ["192.0.2.1", "192.0.2.2"]),
        (EdgeIps(Connectivity.IPV6), ["2001:db8::1", "2001:db8::2"]),
        (EdgeIps(static=(ip_address("192.0.2.2"), ip_address("203.0.113.9"))), ["192.0.2.2"]),
    ):
        assert answered(edges, application(1, edge_ips=edge_ips)) == expected


def test_where_several_applications_have_a_name_it_is_answered_with_edges_that_serve_the_most_of_them() -> None:
    both = application(1), application(2)
    edges = [edge("192.0.2.1", serves="app1 app2"), edge("192.0.2.2", serves="app1")]
    assert answered(edges, *both) == ["192.0.2.1"]
    assert answered([edges[1], edge("192.0.2.3", serves="app2")], *both) == ["192.0.2.2", "192.0.2.3"]
    assert answered([replace(edges[0], is_fit=False), edges[1]], *both) == ["192.0.2.2"]


def test_each_edge_is_a_site_with_its_place() -> None:
    edges = [edge("192.0.2.1", location=(50.1, 8.7)), edge("192.0.2.2", "192.0.2.3")]
    names = names_of([application(1)], ["example.net"], named(edges), TERMS)
    [name] = names.names
    assert [(site.addresses, site.location) for site in name.sites] == [
        (("192.0.2.1",), (50.1, 8.7)),
        (("192.0.2.2", "192.0.2.3"), None),
    ]


def test_zones_have_the_name_servers_that_were_named_or_one_within_each() -> None:
    addresses = (ip_address("192.0.2.53"),)
    plain = names_of([], ["b.net", "a.net"], {}, Terms(20, (), addresses))
    assert [(zone.name, zone.servers) for zone in plain.zones] == [("a.net", ("ns1.a.net",)), ("b.net", ("ns1.b.net",))]
    assert {host.name: host.addresses for host in plain.hosts} == dict.fromkeys(
        ("ns1.a.net", "ns1.b.net"), ("192.0.2.53",)
    )
    named = names_of([], ["a.net"], {}, Terms(20, ("ns1.example.org", "ns2.example.org"), addresses))
    assert named.zones[0].servers == ("ns1.example.org", "ns2.example.org")


def test_edges_that_answer_names_are_name_servers_too_whether_they_are_fit_or_not() -> None:
    here, there = ip_address("192.0.2.53"), ip_address("198.51.100.53")
    edges = {
        "fra-1": EdgeSeen((), name_servers=(there,), is_fit=False),
        "nyc-1": EdgeSeen((), name_servers=(there,), server_names=("ns1.example.org",)),
        "lhr-1": EdgeSeen(()),
    }
    names = names_of([], ["a.net", "b.net"], edges, Terms(20, ("ns1.example.org",), (here,)))
    assert [zone.servers for zone in names.zones] == [
        ("ns1.example.org", "ns-fra-1.a.net"),
        ("ns1.example.org", "ns-fra-1.b.net"),
    ]
    assert {host.name: host.addresses for host in names.hosts} == {
        "ns-fra-1.a.net": ("198.51.100.53",),
        "ns-fra-1.b.net": ("198.51.100.53",),
        "ns1.example.org": ("192.0.2.53", "198.51.100.53"),
    }


def test_a_zone_whose_name_leaves_no_room_is_left_out_and_the_others_stay() -> None:
    long = ".".join(["a" * 62] * 4)[:250]
    edges = {"an-edge-of-a-very-long-name": EdgeSeen((), name_servers=(ip_address("192.0.2.1"),))}
    assert [zone.name for zone in names_of([], [long, "a.net"], edges, TERMS).zones] == ["a.net"]
    [zone] = names_of([], [long[:240]], edges, TERMS).zones
    assert zone.servers == (f"ns1.{long[:240]}",)


def test_a_table_is_read_as_it_was_written_and_equal_names_make_the_same_one() -> None:
    edges = [edge("192.0.2.2", location=(50.1, 8.7)), edge("192.0.2.1")]
    names = names_of([application(1)], ["example.net"], named(edges), TERMS)
    read = read_table(names.table(7))
    assert (read.serial, read.content()) == (7, names)
    assert names == names_of([application(1)], ["example.net"], named(edges), TERMS)
    with pytest.raises(msgspec.MsgspecError):
        read_table(b'{"format": 1}')
