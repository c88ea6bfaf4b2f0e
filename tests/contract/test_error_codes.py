"""Every documented error code, raised; what is stored and what listens stays as it was."""

import socket
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from running import ZONE, Api, Server, ask, free_port, upper_origin

STATIC = {"type": "static", "ips": ["127.0.0.2"]}
NAMED = {"origin_direct": None, "origin_dns": {"type": "A", "name": "o.example.org", "ttl": 600}, "origin_port": 22}
UDP = {"protocol": "udp/21003", "origin_direct": ["udp://192.0.2.1:1"]}
WEIGHTS = "/x_causeway/weights"
CLEAR = "/x_causeway/transparent"
TRUSTED = "/x_causeway/proxy_protocol_from"
NETWORK = str(uuid.uuid4())

CASES: list[tuple[str, dict[str, Any], int, int, str]] = [
    # what is wrong                       changes to a good body                         code  HTTP  pointer
    ("unknown field", {"orign_direct": []}, 10012, 400, "/orign_direct"),
    ("unknown field inside", {"dns": {"type": "CNAME", "name": f"a.{ZONE}", "ttl": 1}}, 10012, 400, "/dns/ttl"),
    ("unknown extension", {"x_causeway": {"idle_timeout": 1}}, 10012, 400, "/x_causeway/idle_timeout"),
    ("no origin", {"origin_direct": None}, 11000, 400, "/origin_direct"),
    ("empty origins", {"origin_direct": []}, 11000, 400, "/origin_direct"),
    ("both origins", {**NAMED, "origin_direct": ["tcp://192.0.2.1:1"]}, 11000, 400, "/origin_direct"),
    ("port without name", {"origin_port": 22}, 11000, 400, "/origin_port"),
    ("name invalid", {**NAMED, "origin_dns": {"type": "A", "name": "-bad-.org"}}, 11001, 400, "/origin_dns/name"),
    ("name missing", {**NAMED, "origin_dns": {"type": "A"}}, 11001, 400, "/origin_dns/name"),
    ("name is an address", {**NAMED, "origin_dns": {"type": "A", "name": "192.0.2.1"}}, 11001, 400, "/origin_dns/name"),
    ("no port", {**NAMED, "origin_port": None}, 11001, 400, "/origin_port"),
    ("port 0", {**NAMED, "origin_port": 0}, 11001, 400, "/origin_port"),
    ("port too high", {**NAMED, "origin_port": 65536}, 11001, 400, "/origin_port"),
    ("ttl too low", {**NAMED, "origin_dns": {"name": "o.example.org", "ttl": 4}}, 11001, 400, "/origin_dns/ttl"),
    ("ttl too high", {**NAMED, "origin_dns": {"name": "o.example.org", "ttl": 86401}}, 11001, 400, "/origin_dns/ttl"),
    ("range for a port", {**NAMED, "origin_port": "22-23"}, 11001, 400, "/origin_port"),
    ("IPv6 without brackets", {"origin_direct": ["tcp://2001:db8::1:22"]}, 11002, 400, "/origin_direct/0"),
    ("hostname as address", {"origin_direct": ["tcp://o.example.org:22"]}, 11002, 400, "/origin_direct/0"),
    ("metadata address", {"origin_direct": ["tcp://169.254.169.254:80"]}, 11002, 400, "/origin_direct/0"),
    (
        "second origin bad",
        {"origin_direct": ["tcp://192.0.2.1:1", "tcp://[::]:1"]},
        11002,
        400,
        "/origin_direct/1",
    ),
    ("other transport", {"origin_direct": ["udp://192.0.2.1:22"]}, 11002, 400, "/origin_direct/0"),
    ("ranges differ", {"origin_direct": ["tcp://192.0.2.1:1-2"]}, 11002, 400, "/origin_direct/0"),
    ("CNAME with static", {"edge_ips": STATIC}, 11004, 400, "/dns/type"),
    ("ADDRESS with dynamic", {"dns": {"type": "ADDRESS", "name": f"a.{ZONE}"}}, 11004, 400, "/dns/type"),
    ("network is no UUID", {"virtual_network_id": "lab"}, 11045, 400, "/virtual_network_id"),
    ("network needs direct", {**NAMED, "virtual_network_id": NETWORK}, 11041, 400, "/origin_direct"),
    (
        "network needs one origin",
        {"virtual_network_id": NETWORK, "origin_direct": ["tcp://10.0.0.1:1", "tcp://10.0.0.2:1"]},
        11042,
        400,
        "/origin_direct",
    ),
    (
        "network needs one port",
        {"virtual_network_id": NETWORK, "protocol": "tcp/21001-21002", "origin_direct": ["tcp://10.0.0.1:1-2"]},
        11043,
        400,
        "/protocol",
    ),
    ("network has no route", {"virtual_network_id": NETWORK}, 11044, 400, "/virtual_network_id"),
    ("protocol unknown", {"protocol": "sctp/22"}, 13002, 400, "/protocol"),
    ("protocol missing", {"protocol": None}, 13002, 400, "/protocol"),
    ("protocol without port", {"protocol": "tcp"}, 13002, 400, "/protocol"),
    ("port 0 at the edge", {"protocol": "tcp/0"}, 13002, 400, "/protocol"),
    ("port beyond 65535", {"protocol": "tcp/65536"}, 13002, 400, "/protocol"),
    ("range backwards", {"protocol": "tcp/2000-1000"}, 13002, 400, "/protocol"),
    ("digits of another script", {"protocol": "tcp/２２"}, 13002, 400, "/protocol"),
    ("outside the zone", {"dns": {"type": "CNAME", "name": "a.elsewhere.org"}}, 16001, 400, "/dns/name"),
    ("only looks inside", {"dns": {"type": "CNAME", "name": f"not{ZONE}"}}, 16001, 400, "/dns/name"),
    (
        "smart datagrams",
        {"argo_smart_routing": True, "protocol": "udp/21003", "origin_direct": ["udp://10.0.0.1:53"]},
        19001,
        400,
        "/argo_smart_routing",
    ),
    (
        "smart on a path",
        {"argo_smart_routing": True, "x_causeway": {"paths": [["ams-1"]]}},
        19002,
        400,
        "/argo_smart_routing",
    ),
    (
        "smart minecraft",
        {"argo_smart_routing": True, "x_causeway": {"minecraft": {"joins_per_s": 1}}},
        19002,
        400,
        "/argo_smart_routing",
    ),
    (
        "smart in the kernel",
        {"argo_smart_routing": True, "x_causeway": {"carrier": "kernel"}},
        19002,
        400,
        "/argo_smart_routing",
    ),
    ("TLS flexible", {"tls": "flexible"}, 19001, 400, "/tls"),
    ("TLS full", {"tls": "full"}, 19001, 400, "/tls"),
    ("TLS strict", {"tls": "Strict"}, 19001, 400, "/tls"),
    ("HTTP", {"traffic_type": "http"}, 19001, 400, "/traffic_type"),
    ("HTTPS", {"traffic_type": "https"}, 19001, 400, "/traffic_type"),
    ("worker", {"traffic_type": "worker"}, 19001, 400, "/traffic_type"),
    ("worker id", {"origin_worker_id": "w"}, 19001, 400, "/origin_worker_id"),
    ("SRV", {**NAMED, "origin_dns": {"type": "SRV", "name": "_x._tcp.example.org"}}, 19001, 400, "/origin_dns/type"),
    ("carrier unknown", {"x_causeway": {"carrier": "pigeon"}}, 19002, 400, "/x_causeway/carrier"),
    ("mitigation unknown", {"x_causeway": {"mitigation": "max"}}, 19002, 400, "/x_causeway/mitigation"),
    ("logins no switch", {"x_causeway": {"logins": "yes"}}, 19002, 400, "/x_causeway/logins"),
    ("mitigation no text", {"x_causeway": {"mitigation": True}}, 19002, 400, "/x_causeway/mitigation"),
    ("minecraft of nothing", {"x_causeway": {"minecraft": {}}}, 19002, 400, "/x_causeway/minecraft"),
    (
        "minecraft joins",
        {"x_causeway": {"minecraft": {"joins_per_s": 0.5}}},
        19002,
        400,
        "/x_causeway/minecraft/joins_per_s",
    ),
    ("balance unknown", {"x_causeway": {"balance": "dice"}}, 19002, 400, "/x_causeway/balance"),
    ("hash of a name", {**NAMED, "x_causeway": {"balance": "hash"}}, 19002, 400, "/x_causeway/balance"),
    ("weights in order", {"x_causeway": {"weights": [1]}}, 19002, 400, WEIGHTS),
    ("a weight too many", {"x_causeway": {"balance": "hash", "weights": [1, 2]}}, 19002, 400, WEIGHTS),
    ("no weight at all", {"x_causeway": {"balance": "hash", "weights": [0]}}, 19002, 400, WEIGHTS),
    ("a weight of text", {"x_causeway": {"balance": "hash", "weights": ["1"]}}, 19002, 400, f"{WEIGHTS}/0"),
    ("transparent text", {"x_causeway": {"transparent": "yes"}}, 19002, 400, CLEAR),
    ("transparent engine", {"x_causeway": {"transparent": True, "carrier": "engine"}}, 19002, 400, CLEAR),
    ("transparent v2", {"proxy_protocol": "v2", "x_causeway": {"transparent": True}}, 19002, 400, CLEAR),
    (
        "transparent trusted",
        {"x_causeway": {"transparent": True, "proxy_protocol_from": ["10.0.0.0/8"]}},
        19002,
        400,
        CLEAR,
    ),
    ("hostname missing", {"dns": None}, 19002, 400, "/dns/name"),
    ("hostname invalid", {"dns": {"type": "CNAME", "name": "a b"}}, 19002, 400, "/dns/name"),
    ("TLS unknown", {"tls": "maybe"}, 19002, 400, "/tls"),
    ("traffic unknown", {"traffic_type": "carrier-pigeon"}, 19002, 400, "/traffic_type"),
    (
        "v1 over UDP",
        {**UDP, "proxy_protocol": "v1"},
        19002,
        400,
        "/proxy_protocol",
    ),
    ("simple over TCP", {"proxy_protocol": "simple"}, 19002, 400, "/proxy_protocol"),
    ("trusted over UDP", {**UDP, "x_causeway": {"proxy_protocol_from": ["10.0.0.0/8"]}}, 19002, 400, TRUSTED),
    ("text for a bool", {"ip_firewall": "yes"}, 19002, 400, "/ip_firewall"),
    ("list for text", {"tls": ["off"]}, 19002, 400, "/tls"),
    ("connectivity", {"edge_ips": {"type": "dynamic", "connectivity": "ipx"}}, 19002, 400, "/edge_ips/connectivity"),
    ("timeout negative", {"x_causeway": {"idle_timeout_s": -1}}, 19002, 400, "/x_causeway/idle_timeout_s"),
    ("timeout 0", {"x_causeway": {"connect_timeout_s": 0}}, 19002, 400, "/x_causeway/connect_timeout_s"),
    (
        "prefix with host bits",
        {"x_causeway": {"proxy_protocol_from": ["10.0.0.1/8"]}},
        19002,
        400,
        f"{TRUSTED}/0",
    ),
]


def offender(pointer: str, changes: dict[str, Any]) -> str:
    """What the sentence has to name: the value at the pointer if it is text or a number, else the field."""
    value: Any = changes
    for step in pointer.split("/")[1:]:
        value = value[int(step)] if isinstance(value, list) else value.get(step) if isinstance(value, dict) else None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else field_of(pointer)


def field_of(pointer: str) -> str:
    return next(step for step in reversed(pointer.split("/")) if not step.isdigit())


@pytest.mark.parametrize(("changes", "code", "status", "pointer"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("verb", ["POST", "PUT"])
def test_a_refused_body_says_why_and_changes_nothing(
    api: Api, verb: str, changes: dict[str, Any], code: int, status: int, pointer: str
) -> None:
    present = api.create()
    before = api.state()
    path = api.apps if verb == "POST" else f"{api.apps}/{present['id']}"
    answer = api.http.request(verb, path, json=api.body(**changes))
    error = answer.json()["errors"][0]
    assert (answer.status_code, error["code"], error["source"]["pointer"]) == (status, code, pointer), error
    assert error["side"] == "operator"
    assert (field_of(pointer) if code == 10012 else offender(pointer, changes)) in error["message"]
    assert answer.json() | {"errors": []} == {"success": False, "errors": [], "messages": [], "result": None}
    assert api.state() == before


@pytest.mark.parametrize(("changes", "code", "pointer"), [(c[1], c[2], c[4]) for c in CASES], ids=[c[0] for c in CASES])
def test_a_dry_run_refuses_the_same(api: Api, changes: dict[str, Any], code: int, pointer: str) -> None:
    answer = api.http.post(api.apps, params={"dry_run": "true"}, json=api.body(**changes))
    error = answer.json()["errors"][0]
    assert (error["code"], error["source"]["pointer"]) == (code, pointer)


def refusal(api: Api, verb: str, path: str, body: object, code: int, status: int = 400) -> str:
    """Ask, expect this refusal and an unchanged state, return the sentence."""
    before = api.state()
    answer = api.http.request(verb, path, json=body)
    error = answer.json()["errors"][0]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert api.state() == before
    return str(error["message"])


def test_13002_a_transparent_listener_that_the_kernel_cannot_carry(api: Api) -> None:
    body = api.body(x_causeway={"transparent": True})  # on loopback
    assert "transparent: only the kernel can" in refusal(api, "POST", api.apps, body, 13002)


def test_11004_the_dns_type_stays(api: Api) -> None:
    made = api.create()
    other = api.body(dns={"type": "ADDRESS", "name": f"app.{ZONE}"}, edge_ips=STATIC)
    assert "cannot change" in refusal(api, "PUT", f"{api.apps}/{made['id']}", other, 11004)
    changes = {"dns": {"type": "ADDRESS", "name": f"app.{ZONE}"}, "edge_ips": STATIC}
    refusal(api, "PATCH", f"{api.apps}/{made['id']}", changes, 11004)


def test_11019_an_address_that_is_not_the_edges(api: Api) -> None:
    body = api.body(dns={"type": "ADDRESS", "name": f"a.{ZONE}"}, edge_ips={"type": "static", "ips": ["192.0.2.77"]})
    message = refusal(api, "POST", api.apps, body, 11019)
    assert "192.0.2.77" in message
    assert "127.0.0.2" in message, "says which there are"


def test_11018_the_edge_has_no_address_of_that_family(alone: Callable[..., Server]) -> None:
    api = alone().start().api()
    body = api.body(edge_ips={"type": "dynamic", "connectivity": "ipv6"})
    assert "--edge-ip" in refusal(api, "POST", api.apps, body, 11018, 403)


def second_zone(api: Api, name: str) -> str:
    account = api.http.get("/client/v4/accounts").json()["result"][0]["id"]
    answer = api.http.post("/client/v4/zones", json={"name": name, "account": {"id": account}})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["result"]["id"])


def test_11033_a_static_address_of_another_zone(api: Api) -> None:
    api.create(dns={"type": "ADDRESS", "name": f"mine.{ZONE}"}, edge_ips=STATIC)
    zone = second_zone(api, "other.example.org")
    try:
        body = api.body(dns={"type": "ADDRESS", "name": "a.other.example.org"}, edge_ips=STATIC)
        path = f"/client/v4/zones/{zone}/spectrum/apps"
        assert f"mine.{ZONE}" in refusal(api, "POST", path, body, 11033)
    finally:
        assert api.http.delete(f"/client/v4/zones/{zone}").status_code == 200


def test_13002_names_the_application_that_has_the_port(api: Api) -> None:
    first = api.create(protocol="tcp/21200-21210", origin_direct=["tcp://192.0.2.1:1-11"])
    taken = api.body(protocol="tcp/21205", dns={"type": "CNAME", "name": f"late.{ZONE}"})
    message = refusal(api, "POST", api.apps, taken, 13002)
    assert first["id"] in message
    assert first["dns"]["name"] in message
    second = api.create(protocol="tcp/21211")
    refusal(api, "PATCH", f"{api.apps}/{second['id']}", {"protocol": "tcp/21210"}, 13002)


def test_13002_a_static_address_meets_a_dynamic_one(api: Api) -> None:
    api.create(protocol="tcp/21220", edge_ips={"type": "dynamic", "connectivity": "ipv4"})
    body = api.body(protocol="tcp/21220", dns={"type": "ADDRESS", "name": f"a.{ZONE}"}, edge_ips=STATIC)
    refusal(api, "POST", api.apps, body, 13002)


def test_the_same_port_may_differ_in_protocol_or_address(api: Api) -> None:
    api.create(protocol="tcp/21230", edge_ips={"type": "dynamic", "connectivity": "ipv6"})
    api.create(protocol="udp/21230", origin_direct=["udp://192.0.2.1:22"])
    api.create(protocol="tcp/21230", dns={"type": "ADDRESS", "name": f"a.{ZONE}"}, edge_ips=STATIC)


def test_13002_a_port_of_another_process_leaves_the_old_application_serving(api: Api) -> None:
    with upper_origin() as origin:
        busy = api.body(protocol=f"tcp/{origin}", origin_direct=["tcp://192.0.2.1:1"])
        message = refusal(api, "POST", api.apps, busy, 13002)
        assert f"tcp/{origin} on 127.0.0.1 is in use by another process" in message
        good = free_port()
        made = api.create(protocol=f"tcp/{good}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        assert ask(good) == b"HELLO\n"
        with socket.create_server(("127.0.0.1", free_port())) as other:
            taken = {"protocol": f"tcp/{other.getsockname()[1]}"}
            refusal(api, "PATCH", f"{api.apps}/{made['id']}", taken, 13002)
        assert ask(good) == b"HELLO\n"


def test_13002_the_api_port_is_not_for_applications(api: Api) -> None:
    refusal(api, "POST", api.apps, api.body(protocol=f"tcp/{api.server.port}"), 13002)


def test_16001_the_name_belongs_to_a_zone_below(api: Api) -> None:
    zone = second_zone(api, f"sub.{ZONE}")
    try:
        body = api.body(dns={"type": "CNAME", "name": f"a.sub.{ZONE}"})
        assert f"sub.{ZONE}" in refusal(api, "POST", api.apps, body, 16001)
    finally:
        api.http.delete(f"/client/v4/zones/{zone}")
    api.create(dns={"type": "CNAME", "name": f"a.sub.{ZONE}"})
    account = api.http.get("/client/v4/accounts").json()["result"][0]["id"]
    refusal(api, "POST", "/client/v4/zones", {"name": f"sub.{ZONE}", "account": {"id": account}}, 16001)


@pytest.mark.parametrize("body", [b"", b"{", b"[1", b"\xff\xfe", b'{"protocol": NaN}', b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(api: Api, body: bytes) -> None:
    before = api.state()
    answer = api.http.post(api.apps, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"][0]["code"] == 6007
    assert api.state() == before


@pytest.mark.parametrize("body", [[], "text", 1, True])
def test_a_body_that_is_no_object_is_refused(api: Api, body: object) -> None:
    answer = api.http.post(api.apps, json=body)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 19002)


def test_a_body_over_one_mebibyte_is_refused(api: Api) -> None:
    large = b'{"protocol": "' + b"x" * 1_048_576 + b'"}'
    for content in (large, iter([large[:500_000], large[500_000:]])):
        answer = api.http.post(api.apps, content=content)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (413, 19006)


UNKNOWN = "0" * 32
WRONG_PATHS = [  # verb path status code
    ("GET", "/client/v4/nothing", 404, 7000),
    ("POST", "/client/v4/accounts", 405, 7001),
    ("GET", f"/client/v4/zones/{UNKNOWN}", 404, 1001),
    ("GET", f"/client/v4/zones/{UNKNOWN}/spectrum/apps", 404, 1001),
    ("GET", "/client/v4/zones/not-an-id/spectrum/apps", 404, 7003),
    ("GET", "{apps}/" + UNKNOWN, 404, 10006),
    ("PUT", "{apps}/" + UNKNOWN, 404, 10006),
    ("PATCH", "{apps}/" + UNKNOWN, 404, 10006),
    ("DELETE", "{apps}/" + UNKNOWN, 404, 10006),
    ("GET", "{apps}/..%2f..", 404, 7000),
    ("GET", "{apps}/" + "F" * 32, 404, 7003),
    ("GET", f"/client/v4/accounts/{UNKNOWN}", 404, 7003),
]


@pytest.mark.parametrize(("verb", "path", "status", "code"), WRONG_PATHS)
def test_what_is_not_there_is_said_in_the_envelope(api: Api, verb: str, path: str, status: int, code: int) -> None:
    answer = api.http.request(verb, path.format(apps=api.apps), json=api.body() if verb in ("PUT", "PATCH") else None)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code), answer.text
    assert answer.json()["success"] is False


def test_a_zone_with_applications_is_not_deleted(api: Api) -> None:
    made = api.create()
    message = refusal(api, "DELETE", f"/client/v4/zones/{api.zone_id}", None, 19003)
    assert "1 application" in message
    api.http.delete(f"{api.apps}/{made['id']}")


ZONE_CASES = [
    ({"name": "not a name"}, 19002),
    ({"name": "single"}, 19002),
    ({"name": "192.0.2.1"}, 19002),
    ({"name": ""}, 19002),
    ({}, 19002),
    ({"name": 3}, 19002),
    ({"name": ZONE}, 1061),
    ({"name": ZONE.upper() + "."}, 1061),
    ({"name": "new.example.com", "account": {"id": UNKNOWN}}, 19002),
    ({"name": "new.example.com", "type": "partial"}, 19001),
    ({"name": "new.example.com", "colour": "red"}, 10012),
]


@pytest.mark.parametrize(("body", "code"), ZONE_CASES)
def test_zones_are_checked(api: Api, body: dict[str, Any], code: int) -> None:
    refusal(api, "POST", "/client/v4/zones", body, code)
