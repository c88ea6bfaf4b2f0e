"""Every documented field of an application: what may be said, what it becomes, what comes back."""

from typing import Any

import pytest
from running import ZONE, Api, ask, free_port, upper_origin

DEFAULTS = {
    "ip_firewall": False,
    "proxy_protocol": "off",
    "tls": "off",
    "traffic_type": "direct",
    "edge_ips": {"type": "dynamic", "connectivity": "all"},
    "argo_smart_routing": False,
}


def test_the_defaults_are_those_of_the_documentation(api: Api) -> None:
    made = api.create(protocol="tcp/21300")
    assert {name: made[name] for name in DEFAULTS} == DEFAULTS
    assert set(made) == {*DEFAULTS, "id", "dns", "protocol", "origin_direct", "created_on", "modified_on"}
    assert made["created_on"] == made["modified_on"]
    assert made["created_on"].endswith("Z")
    assert len(made["created_on"].partition(".")[2]) == len("000000Z")


FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # sent                                                    shown
    ({"protocol": "TCP/21301"}, {"protocol": "tcp/21301"}),
    ({"protocol": "tcp/21302-21302"}, {"protocol": "tcp/21302"}),
    ({"protocol": "udp/21303", "origin_direct": ["udp://192.0.2.1:53"]}, {"protocol": "udp/21303"}),
    (
        {"protocol": "tcp/21310-21320", "origin_direct": ["tcp://192.0.2.1:3000-3010"]},
        {"protocol": "tcp/21310-21320", "origin_direct": ["tcp://192.0.2.1:3000-3010"]},
    ),
    ({"origin_direct": ["tcp://[2001:DB8:0::1]:22"]}, {"origin_direct": ["tcp://[2001:db8::1]:22"]}),
    (
        {"origin_direct": ["tcp://10.0.0.1:22", "tcp://10.0.0.2:22"]},
        {"origin_direct": ["tcp://10.0.0.1:22", "tcp://10.0.0.2:22"]},
    ),
    ({"dns": {"type": "cname", "name": f"UPPER.{ZONE}."}}, {"dns": {"type": "CNAME", "name": f"upper.{ZONE}"}}),
    ({"dns": {"name": f"untyped.{ZONE}"}}, {"dns": {"type": "CNAME", "name": f"untyped.{ZONE}"}}),
    ({"dns": {"type": "CNAME", "name": ZONE}}, {"dns": {"type": "CNAME", "name": ZONE}}),
    ({"ip_firewall": True}, {"ip_firewall": True}),
    ({"proxy_protocol": "V1"}, {"proxy_protocol": "v1"}),
    ({"proxy_protocol": "v2"}, {"proxy_protocol": "v2"}),
    (
        {"protocol": "udp/21304", "origin_direct": ["udp://192.0.2.1:1"], "proxy_protocol": "simple"},
        {"proxy_protocol": "simple"},
    ),
    ({"tls": "OFF", "traffic_type": "Direct", "argo_smart_routing": False}, {"tls": "off", "traffic_type": "direct"}),
    ({"argo_smart_routing": True}, {"argo_smart_routing": True}),
    ({"edge_ips": {"type": "dynamic"}}, {"edge_ips": {"type": "dynamic", "connectivity": "all"}}),
    (
        {"edge_ips": {"connectivity": "ipv6"}},
        {"edge_ips": {"type": "dynamic", "connectivity": "ipv6"}},
    ),
    (
        {"dns": {"type": "ADDRESS", "name": f"s.{ZONE}"}, "edge_ips": {"type": "static", "ips": ["127.0.0.2", "::1"]}},
        {"edge_ips": {"type": "static", "ips": ["127.0.0.2", "::1"]}},
    ),
    (
        {"origin_direct": None, "origin_dns": {"name": "O.example.org"}, "origin_port": 22},
        {"origin_dns": {"type": "", "name": "o.example.org", "ttl": 600}, "origin_port": 22},
    ),
    (
        {"origin_direct": None, "origin_dns": {"type": "AAAA", "name": "o.example.org", "ttl": 5}, "origin_port": "22"},
        {"origin_dns": {"type": "AAAA", "name": "o.example.org", "ttl": 5}, "origin_port": 22},
    ),
    ({"virtual_network_id": None}, {}),
    ({"x_causeway": {}}, {"x_causeway": None}),
    (
        {
            "origin_direct": ["tcp://10.0.0.1:1", "tcp://10.0.0.2:1"],
            "x_causeway": {"balance": "hash", "weights": [1, 3]},
        },
        {"x_causeway": {"balance": "hash", "weights": [1, 3]}},
    ),
    (
        {"x_causeway": {"minecraft": {"status_cache_s": 1.5}}},
        {"x_causeway": {"minecraft": {"status_cache_s": 1.5, "joins_per_s": 0, "challenge": True}}},
    ),
    ({"x_causeway": {"mitigation": "off"}}, {"x_causeway": {"mitigation": "off"}}),
    ({"x_causeway": {"mitigation": "High"}}, {"x_causeway": {"mitigation": "high"}}),
    ({"x_causeway": {"mitigation": "medium"}}, {"x_causeway": {"mitigation": "medium"}}),
    ({"x_causeway": {"logins": False}}, {"x_causeway": {"logins": False}}),
    ({"x_causeway": {"transparent": False}}, {"x_causeway": {"transparent": False}}),
    ({"x_causeway": {"idle_timeout_s": 3600}}, {"x_causeway": {"idle_timeout_s": 3600}}),
    (
        {
            "x_causeway": {
                "name": "my game",
                "proxy_protocol_from": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"],
                "proxy_header_timeout_s": 1.5,
                "udp_header": "every",
                "connect_timeout_s": 0.25,
                "idle_timeout_s": 0,
                "half_close_timeout_s": 30,
                "no_progress_timeout_s": 0,
                "udp_idle_timeout_s": 15,
                "carrier": "engine",
                "on_delete": "close",
                "drain_s": 5,
            }
        },
        {
            "x_causeway": {
                "name": "my game",
                "proxy_protocol_from": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"],
                "proxy_header_timeout_s": 1.5,
                "udp_header": "every",
                "connect_timeout_s": 0.25,
                "idle_timeout_s": 0,
                "half_close_timeout_s": 30,
                "no_progress_timeout_s": 0,
                "udp_idle_timeout_s": 15,
                "carrier": "engine",
                "on_delete": "close",
                "drain_s": 5,
            }
        },
    ),
]


@pytest.mark.parametrize(("sent", "shown"), FIELDS, ids=[str(sent)[:60] for sent, _ in FIELDS])
def test_a_field_is_taken_kept_and_shown(api: Api, sent: dict[str, Any], shown: dict[str, Any]) -> None:
    made = api.create(**sent)
    assert {name: made.get(name) for name in shown} == shown
    assert api.http.get(f"{api.apps}/{made['id']}").json()["result"] == made
    assert api.http.get(api.apps).json()["result"] == [made]
    again = api.http.put(f"{api.apps}/{made['id']}", json=made).json()["result"]
    assert again == made, "what was shown, put back, changes nothing"


def test_several_applications_share_a_hostname(api: Api) -> None:
    first, second = api.create(), api.create()
    assert first["dns"] == second["dns"]
    assert first["id"] != second["id"]


def test_put_replaces_and_patch_merges(api: Api) -> None:
    made = api.create(proxy_protocol="v1", x_causeway={"name": "kept", "drain_s": 5})
    path = f"{api.apps}/{made['id']}"
    patched = api.http.patch(path, json={"x_causeway": {"drain_s": 7}, "ip_firewall": True}).json()["result"]
    assert patched["x_causeway"] == {"name": "kept", "drain_s": 7}
    assert (patched["proxy_protocol"], patched["ip_firewall"]) == ("v1", True)
    assert patched["created_on"] == made["created_on"]
    assert patched["modified_on"] > made["modified_on"]
    reset = api.http.patch(path, json={"proxy_protocol": None, "x_causeway": {"name": None}}).json()["result"]
    assert (reset["proxy_protocol"], reset["x_causeway"]) == ("off", {"drain_s": 7})
    named = api.http.patch(path, json={"origin_dns": {"name": "o.example.org"}, "origin_port": 22}).json()["result"]
    assert "origin_direct" not in named
    direct = api.http.patch(path, json={"origin_direct": ["tcp://10.0.0.1:1"]}).json()["result"]
    assert "origin_dns" not in direct
    assert "origin_port" not in direct
    replaced = api.http.put(path, json=api.body(protocol=made["protocol"])).json()["result"]
    assert "x_causeway" not in replaced
    assert replaced["ip_firewall"] is False


def test_read_only_fields_in_a_body_change_nothing(api: Api) -> None:
    made = api.create(id="f" * 32, created_on="2001-01-01T00:00:00Z", modified_on="2001-01-01T00:00:00Z")
    assert made["id"] != "f" * 32
    assert not made["created_on"].startswith("2001")


def test_a_dry_run_answers_the_would_be_application(api: Api) -> None:
    before = api.state()
    body = api.body(x_causeway={"name": "maybe"})
    planned = api.http.post(api.apps, params={"dry_run": "true"}, json=body).json()["result"]
    assert planned["dns"] == body["dns"]
    assert planned["x_causeway"] == {"name": "maybe"}
    assert api.state() == before
    made = api.create()
    before = api.state()
    path = f"{api.apps}/{made['id']}"
    for verb, change in (("PUT", api.body(tls="off", ip_firewall=True)), ("PATCH", {"ip_firewall": True})):
        planned = api.http.request(verb, path, params={"dry_run": "true"}, json=change).json()["result"]
        assert planned["ip_firewall"] is True
        assert planned["id"] == made["id"]
    assert api.state() == before


def test_ports_of_a_range_map_by_offset(api: Api) -> None:
    with upper_origin() as origin:
        first = 21_400
        made = api.create(
            protocol=f"tcp/{first}-{first + 2}", origin_direct=[f"tcp://127.0.0.1:{origin - 1}-{origin + 1}"]
        )
        assert ask(first + 1) == b"HELLO\n"
        assert ask(first + 1, "127.0.0.2") == b"HELLO\n"
        assert ask(first + 1, "::1") == b"HELLO\n"
        [seen] = api.http.get("/api/v1/applications").json()["result"]
        assert seen["id"] == made["id"]
        assert {(item["address"], item["state"]) for item in seen["listeners"]} == {
            ("127.0.0.1", "running"),
            ("127.0.0.2", "running"),
            ("::1", "running"),
        }
        assert seen["counters"]["connections_total"] == 3


def test_the_next_origin_is_tried(api: Api) -> None:
    with upper_origin() as origin:
        port, dead = free_port(), free_port()
        api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{dead}", f"tcp://127.0.0.1:{origin}"])
        assert ask(port) == b"HELLO\n"
