"""From what was typed to the application that is asked of the server."""

from typing import Any

import pytest

from causeway.cli.draft import (
    changed_body,
    document_body,
    duration_s,
    hostname,
    merged,
    new_bodies,
    origin_uri,
    without,
)
from causeway.cli.flags import ApplicationFlags
from causeway.cli.presets import PRESETS, PresetName
from causeway.cli.problems import Misuse

ZONE = "example.net"

ORIGINS = [  # typed                    transport  ports        expected
    ("10.0.0.5", "tcp", "22", "tcp://10.0.0.5:22"),
    ("10.0.0.5:2222", "tcp", "22", "tcp://10.0.0.5:2222"),
    ("10.0.0.5:3000-4000", "udp", None, "udp://10.0.0.5:3000-4000"),
    ("10.0.0.5", "udp", "1000-2000", "udp://10.0.0.5:1000-2000"),
    ("::1", "tcp", "22", "tcp://[::1]:22"),
    ("[::1]", "tcp", "22", "tcp://[::1]:22"),
    ("[::1]:2222", "tcp", "22", "tcp://[::1]:2222"),
    ("2001:DB8::5", "tcp", "22", "tcp://[2001:db8::5]:22"),
    ("localhost:8080", "tcp", "80", "tcp://127.0.0.1:8080"),
    ("tcp://10.0.0.5:22", "tcp", "80", "tcp://10.0.0.5:22"),
    ("tcp://what ever", "tcp", "80", "tcp://what ever"),  # a URI is the server's to judge
]


@pytest.mark.parametrize(("typed", "transport", "ports", "expected"), ORIGINS)
def test_an_origin_is_completed(typed: str, transport: str, ports: str | None, expected: str) -> None:
    assert origin_uri(typed, transport, ports) == expected


@pytest.mark.parametrize(
    ("typed", "ports", "said"),
    [
        ("db.internal", "22", "--origin-dns db.internal --origin-port 22"),
        ("db.internal:5432", "22", "--origin-dns db.internal --origin-port 5432"),
        ("10.0.0.5", None, "has no port"),
        ("10.0.0", "22", "is not an address"),
        ("", "22", "is not an address"),
    ],
)
def test_an_origin_that_is_no_address_says_what_to_type(typed: str, ports: str | None, said: str) -> None:
    with pytest.raises(Misuse, match=said):
        origin_uri(typed, "tcp", ports)


DURATIONS = [
    ("30", 30),
    ("1.5", 1.5),
    ("1.5s", 1.5),
    ("500ms", 0.5),
    ("5m", 300),
    ("1h", 3600),
    ("2d", 172800),
    ("off", 0),
    ("0", 0),
    (" 5M ", 300),
]


@pytest.mark.parametrize(("text", "seconds"), DURATIONS)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert duration_s(text, "--drain") == seconds


@pytest.mark.parametrize("text", ["", "five", "5 m", "-1", "1e3", "nan", "inf", "5w", "1.2.3", "٣"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(Misuse, match="--drain"):
        duration_s(text, "--drain")


def test_a_whole_number_of_seconds_stays_whole() -> None:
    assert isinstance(duration_s("3s", "--drain"), int)


@pytest.mark.parametrize(
    ("typed", "full"),
    [
        ("ssh", "ssh.example.net"),
        ("@", "example.net"),
        ("a.example.net", "a.example.net"),
        ("x.org", "x.org"),
    ],
)
def test_a_bare_label_gets_the_zone(typed: str, full: str) -> None:
    assert hostname(typed, ZONE) == full


def flags(**given: Any) -> ApplicationFlags:
    return ApplicationFlags(**given)


def test_a_preset_and_an_origin_are_a_whole_application() -> None:
    assert new_bodies(flags(origin=["10.0.0.5"]), PresetName.SSH, ZONE) == [
        {
            "dns": {"type": "CNAME", "name": "ssh.example.net"},
            "protocol": "tcp/22",
            "origin_direct": ["tcp://10.0.0.5:22"],
        }
    ]


def test_a_preset_on_another_port_still_goes_to_the_usual_port_of_the_origin() -> None:
    [body] = new_bodies(flags(origin=["10.0.0.5"], protocol=["tcp/2222"]), PresetName.SSH, ZONE)
    assert (body["protocol"], body["origin_direct"]) == ("tcp/2222", ["tcp://10.0.0.5:22"])


def test_dns_is_two_applications_and_only_udp_gets_the_short_idle_time() -> None:
    udp, tcp = new_bodies(flags(origin=["10.0.0.5"]), PresetName.DNS, ZONE)
    assert (udp["protocol"], udp["origin_direct"]) == ("udp/53", ["udp://10.0.0.5:53"])
    assert (tcp["protocol"], tcp["origin_direct"]) == ("tcp/53", ["tcp://10.0.0.5:53"])
    assert udp["x_causeway"] == {"udp_idle_timeout_s": 10}
    assert "x_causeway" not in tcp
    assert udp["dns"] == tcp["dns"] == {"type": "CNAME", "name": "dns.example.net"}


def test_a_flag_wins_over_its_preset() -> None:
    udp, _ = new_bodies(flags(origin=["10.0.0.5"], udp_idle_timeout="30s"), PresetName.DNS, ZONE)
    assert udp["x_causeway"] == {"udp_idle_timeout_s": 30}


@pytest.mark.parametrize("name", list(PresetName))
def test_every_preset_makes_one_application_per_protocol(name: PresetName) -> None:
    bodies = new_bodies(flags(origin=["10.0.0.5"]), name, ZONE)
    assert tuple(body["protocol"] for body in bodies) == PRESETS[name].protocols
    assert PRESETS[name].check.format(host="127.0.0.1", port=1)


def test_repeated_protocols_are_one_application_each() -> None:
    given = flags(dns="game", origin=["10.0.0.5"], protocol=["udp/27000-27050", "tcp/27015"])
    assert [(b["protocol"], b["origin_direct"]) for b in new_bodies(given, None, ZONE)] == [
        ("udp/27000-27050", ["udp://10.0.0.5:27000-27050"]),
        ("tcp/27015", ["tcp://10.0.0.5:27015"]),
    ]


def test_a_named_origin_gets_the_port_of_the_preset() -> None:
    [body] = new_bodies(flags(origin_dns="bastion.internal"), PresetName.SSH, ZONE)
    assert (body["origin_dns"], body["origin_port"]) == ({"name": "bastion.internal"}, 22)


def test_an_srv_origin_gets_no_port_because_its_records_have_one() -> None:
    [body] = new_bodies(flags(origin_dns="_ssh._tcp.internal", origin_dns_type="SRV"), PresetName.SSH, ZONE)
    assert "origin_port" not in body


def test_an_edge_address_of_its_own_makes_an_address_record() -> None:
    [body] = new_bodies(flags(origin=["10.0.0.5"], edge_ip=["192.0.2.1"]), PresetName.SSH, ZONE)
    assert body["dns"] == {"type": "ADDRESS", "name": "ssh.example.net"}
    assert body["edge_ips"] == {"type": "static", "ips": ["192.0.2.1"]}


def test_every_flag_reaches_its_field() -> None:
    [body] = new_bodies(
        flags(
            dns="a",
            protocol=["tcp/1"],
            name="mine",
            origin=["10.0.0.5", "10.0.0.6"],
            proxy_protocol="v2",
            udp_header="every",
            proxy_from=["10.0.0.0/8"],
            proxy_header_timeout="2s",
            edge_connectivity="ipv4",
            ip_firewall=False,
            traffic_type="direct",
            tls="off",
            argo_smart_routing=False,
            virtual_network_id="v",
            carrier="engine",
            balance="hash",
            weights=[1, 2],
            transparent=False,
            mitigation="low",
            logins=False,
            limits=["asn,connections=1000,ban=1m", "source, connections_per_s=5"],
            minecraft_status_cache="2s",
            minecraft_joins=20,
            minecraft_challenge=False,
            connect_timeout="1s",
            idle_timeout="2s",
            half_close_timeout="off",
            no_progress_timeout="4s",
            udp_idle_timeout="5s",
            on_delete="close",
            drain="6s",
        ),
        None,
        ZONE,
    )
    assert body == {
        "dns": {"type": "CNAME", "name": "a.example.net"},
        "protocol": "tcp/1",
        "origin_direct": ["tcp://10.0.0.5:1", "tcp://10.0.0.6:1"],
        "proxy_protocol": "v2",
        "edge_ips": {"type": "dynamic", "connectivity": "ipv4"},
        "ip_firewall": False,
        "traffic_type": "direct",
        "tls": "off",
        "argo_smart_routing": False,
        "virtual_network_id": "v",
        "x_causeway": {
            "name": "mine",
            "proxy_protocol_from": ["10.0.0.0/8"],
            "proxy_header_timeout_s": 2,
            "udp_header": "every",
            "carrier": "engine",
            "balance": "hash",
            "weights": [1, 2],
            "transparent": False,
            "mitigation": "low",
            "logins": False,
            "limits": [{"of": "asn", "connections": 1000, "ban_s": 60}, {"of": "source", "connections_per_s": 5}],
            "minecraft": {"status_cache_s": 2, "joins_per_s": 20, "challenge": False},
            "connect_timeout_s": 1,
            "idle_timeout_s": 2,
            "half_close_timeout_s": 0,
            "no_progress_timeout_s": 4,
            "udp_idle_timeout_s": 5,
            "on_delete": "close",
            "drain_s": 6,
        },
    }


@pytest.mark.parametrize(
    ("given", "preset", "said"),
    [
        (flags(origin=["10.0.0.5"]), None, "--protocol"),
        (flags(protocol=["tcp/22"], dns="a"), None, "--origin"),
        (flags(protocol=["tcp/22"], origin=["10.0.0.5"]), None, "--dns"),
        (flags(origin=["10.0.0.5"], edge_ip=["::1"], edge_connectivity="all"), PresetName.SSH, "--edge-ip"),
    ],
)
def test_what_is_missing_is_asked_for_by_option(given: ApplicationFlags, preset: PresetName | None, said: str) -> None:
    with pytest.raises(Misuse, match=said):
        new_bodies(given, preset, ZONE)


SERVED = {
    "id": "0" * 32,
    "created_on": "2026-01-01T00:00:00Z",
    "modified_on": "2026-01-01T00:00:00Z",
    "dns": {"type": "CNAME", "name": "a.example.net"},
    "protocol": "tcp/22",
    "origin_direct": ["tcp://10.0.0.5:22"],
    "origin_dns": None,
    "proxy_protocol": "off",
    "x_causeway": {"name": "mine", "drain_s": 30},
}


def test_an_update_keeps_what_was_not_mentioned_and_sends_nothing_read_only() -> None:
    assert changed_body(SERVED, flags(proxy_protocol="v1", drain="5s"), ZONE) == {
        "dns": {"type": "CNAME", "name": "a.example.net"},
        "protocol": "tcp/22",
        "origin_direct": ["tcp://10.0.0.5:22"],
        "proxy_protocol": "v1",
        "x_causeway": {"name": "mine", "drain_s": 5},
    }


def test_a_named_origin_replaces_addresses_and_back() -> None:
    named = changed_body(SERVED, flags(origin_dns="o.example.net", origin_port="22"), ZONE)
    assert "origin_direct" not in named
    assert (named["origin_dns"], named["origin_port"]) == ({"name": "o.example.net"}, 22)
    back = changed_body(named, flags(origin=["10.0.0.6"]), ZONE)
    assert back["origin_direct"] == ["tcp://10.0.0.6:22"]
    assert not {"origin_dns", "origin_port"} & back.keys()


def test_an_update_of_the_name_keeps_the_type_of_the_record() -> None:
    static = SERVED | {"dns": {"type": "ADDRESS", "name": "a.example.net"}}
    assert changed_body(static, flags(dns="b"), ZONE)["dns"] == {"type": "ADDRESS", "name": "b.example.net"}


def test_a_new_ttl_keeps_the_name_of_the_origin() -> None:
    body = merged({"origin_dns": {"name": "o", "ttl": 600}}, {"origin_dns": {"ttl": 1200}})
    assert body == {"origin_dns": {"name": "o", "ttl": 1200}}


def test_an_update_takes_one_protocol() -> None:
    with pytest.raises(Misuse, match="--protocol"):
        changed_body(SERVED, flags(protocol=["tcp/1", "tcp/2"]), ZONE)


def test_unset_returns_a_field_to_its_default() -> None:
    body = without({"proxy_protocol": "v1", "x_causeway": {"name": "a", "drain_s": 1}}, ["x_causeway.name"])
    assert body == {"proxy_protocol": "v1", "x_causeway": {"drain_s": 1}}
    assert without(body, ["proxy_protocol"]) == {"x_causeway": {"drain_s": 1}}


@pytest.mark.parametrize("name", ["nothing", "x_causeway.nothing", "nothing.at.all", ""])
def test_unset_of_what_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(Misuse, match="--unset"):
        without({"x_causeway": {"name": "a"}}, [name])


def test_a_file_may_give_the_hostname_alone() -> None:
    body = document_body({"dns": "a.example.net", "protocol": "tcp/1"}, flags(), ZONE, is_only_one=True)
    assert body["dns"] == {"type": "CNAME", "name": "a.example.net"}


def test_a_flag_wins_over_the_file() -> None:
    document: dict[str, object] = {
        "dns": "a.example.net",
        "protocol": "tcp/22",
        "origin_direct": ["tcp://1.1.1.1:22"],
    }
    body = document_body(document, flags(origin=["10.0.0.5:2"], dns="b"), ZONE, is_only_one=True)
    assert body == {
        "dns": {"type": "CNAME", "name": "b.example.net"},
        "protocol": "tcp/22",
        "origin_direct": ["tcp://10.0.0.5:2"],
    }


def test_one_hostname_does_not_fit_several_applications() -> None:
    with pytest.raises(Misuse, match="several applications"):
        document_body({"dns": "a.example.net"}, flags(dns="b"), ZONE, is_only_one=False)
