"""IP Access Rules over plain HTTP: what is stored, found, refused, and when it holds."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running import Api, Server, ask, free_port, upper_origin

UNKNOWN = "0123456789abcdef" * 2


class Rules:
    """The rules of one zone or account."""

    def __init__(self, api: Api, path: str) -> None:
        self.http, self.path = api.http, f"/client/v4/{path}/firewall/access_rules/rules"

    def add(self, target: str, value: str, mode: str = "block", **more: Any) -> Any:
        body = {"configuration": {"target": target, "value": value}, "mode": mode, **more}
        return self.http.post(self.path, json=body)

    def made(self, *of: str, **more: Any) -> dict[str, Any]:
        answer = self.add(*of, **more)
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        assert isinstance(result, dict)
        return result

    def listed(self, **query: str) -> list[Any]:
        answer = self.http.get(self.path, params={name.replace("__", "."): value for name, value in query.items()})
        assert answer.status_code == 200, answer.text
        found = answer.json()["result"]
        assert isinstance(found, list)
        return found

    def values(self, **query: str) -> list[str]:
        return [rule["configuration"]["value"] for rule in self.listed(**query)]

    def clear(self) -> None:
        for rule in self.listed(per_page="1000"):
            assert self.http.delete(f"{self.path}/{rule['id']}").status_code == 200


@pytest.fixture
def of_zone(api: Api) -> Iterator[Rules]:
    rules = Rules(api, f"zones/{api.zone_id}")
    yield rules
    rules.clear()


@pytest.fixture
def of_account(api: Api) -> Iterator[Rules]:
    account = api.http.get("/client/v4/accounts").json()["result"][0]["id"]
    rules = Rules(api, f"accounts/{account}")
    yield rules
    rules.clear()


def is_let_in(port: int) -> bool:
    try:
        return ask(port) == b"HELLO\n"
    except ConnectionResetError:
        return False


def test_a_rule_lives_its_whole_life(of_zone: Rules, api: Api) -> None:
    made = of_zone.made("ip_range", "198.51.100.0/23", notes="Attack 26/02")
    assert made["configuration"] == {"target": "ip_range", "value": "198.51.100.0/23"}
    assert made["scope"] == {"id": api.zone_id, "type": "zone"}
    assert (made["mode"], made["notes"], made["allowed_modes"]) == ("block", "Attack 26/02", ["block", "whitelist"])
    one = f"{of_zone.path}/{made['id']}"
    assert of_zone.http.get(one).json()["result"] == made
    changed = of_zone.http.patch(one, json={"mode": "whitelist"}).json()["result"]
    assert (changed["mode"], changed["notes"]) == ("whitelist", "Attack 26/02")
    assert changed["modified_on"] > made["modified_on"]
    assert of_zone.http.delete(one).json()["result"] == {"id": made["id"]}
    assert of_zone.http.get(one).status_code == 404


def test_a_rule_holds_when_its_answer_is_there_and_no_longer_than_it(of_zone: Rules, api: Api) -> None:
    with upper_origin() as origin:
        port, open_port = free_port(), free_port()
        api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"], ip_firewall=True)
        api.create(protocol=f"tcp/{open_port}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        assert is_let_in(port)
        for _ in range(20):
            made = of_zone.made("ip", "127.0.0.1")
            assert not is_let_in(port), "not even the first connection after the answer"
            assert is_let_in(open_port), "this application has no firewall"
            of_zone.http.delete(f"{of_zone.path}/{made['id']}")
            assert is_let_in(port)


def test_allow_beats_block_at_the_same_target_and_the_more_specific_beats_both(
    of_zone: Rules, of_account: Rules, api: Api
) -> None:
    with upper_origin() as origin:
        port = free_port()
        api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"], ip_firewall=True)
        of_account.made("ip_range", "127.0.0.0/8")
        assert not is_let_in(port)
        of_zone.made("ip_range", "127.0.0.0/8", "whitelist")
        assert is_let_in(port)
        of_account.made("ip", "127.0.0.1")
        assert not is_let_in(port)
        of_zone.made("ip", "127.0.0.1", "whitelist")
        assert is_let_in(port)


def test_switching_the_firewall_on_applies_rules_that_are_there(of_zone: Rules, api: Api) -> None:
    with upper_origin() as origin:
        port = free_port()
        made = api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        of_zone.made("ip", "127.0.0.1")
        assert is_let_in(port)
        api.http.patch(f"{api.apps}/{made['id']}", json={"ip_firewall": True})
        assert not is_let_in(port)
        api.http.patch(f"{api.apps}/{made['id']}", json={"ip_firewall": False})
        assert is_let_in(port)


def test_drop_established_cuts_a_live_connection(of_zone: Rules, api: Api) -> None:
    with upper_origin() as origin:
        port = free_port()
        api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"], ip_firewall=True)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as live:
            live.sendall(b"a\n")
            assert live.recv(10) == b"A\n"
            made = of_zone.made("ip", "127.0.0.1")
            live.sendall(b"b\n")
            assert live.recv(10) == b"B\n"
            one = f"{of_zone.path}/{made['id']}"
            told = of_zone.http.patch(one, json={"x_causeway": {"drop_established": True}}).json()["result"]
            assert told["x_causeway"] == {"drop_established": True}
            with pytest.raises(ConnectionResetError):
                live.recv(10)


def test_rules_hold_after_a_restart(alone: Callable[..., Server]) -> None:
    server = alone().start()
    api = server.api()
    with upper_origin() as origin:
        port = free_port()
        api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"], ip_firewall=True)
        Rules(api, f"zones/{api.zone_id}").made("ip", "127.0.0.1")
        assert server.stop() == 0
        server.start()
        assert not is_let_in(port)


def test_filters_order_and_pages(of_zone: Rules, of_account: Rules) -> None:
    of_zone.made("ip", "198.51.100.9", notes="Attack 1")
    of_zone.made("ip6", "2001:DB8:0::9", "whitelist", notes="a partner")
    of_zone.made("ip_range", "198.51.100.0/24", "whitelist", notes="attack 2")
    of_account.made("ip", "203.0.113.1")
    assert of_zone.values() == ["198.51.100.9", "2001:db8::9", "198.51.100.0/24"]
    cases: list[tuple[dict[str, str], set[str]]] = [
        ({"configuration__target": "ip"}, {"198.51.100.9"}),
        ({"configuration__value": "2001:0db8::0009"}, {"2001:db8::9"}),
        ({"mode": "whitelist"}, {"2001:db8::9", "198.51.100.0/24"}),
        ({"mode": "challenge"}, set()),
        ({"notes": "ATTACK"}, {"198.51.100.9", "198.51.100.0/24"}),
        ({"notes": "%"}, set()),
        ({"notes": "attack", "mode": "whitelist"}, {"198.51.100.0/24"}),
        ({"notes": "partner", "configuration__target": "ip", "match": "any"}, {"198.51.100.9", "2001:db8::9"}),
    ]
    for query, values in cases:
        assert set(of_zone.values(**query)) == values, query
    assert of_zone.values(order="configuration.value", direction="desc")[0] == "2001:db8::9"
    assert of_zone.values(order="mode")[0] == "198.51.100.9"
    pages = [of_zone.values(page=str(page), per_page="2") for page in (1, 2, 3)]
    assert [len(page) for page in pages] == [2, 1, 0]
    info = of_zone.http.get(of_zone.path, params={"page": 2, "per_page": 2}).json()["result_info"]
    assert info == {"page": 2, "per_page": 2, "count": 1, "total_count": 3, "total_pages": 2}
    assert of_zone.http.get(of_zone.path, params={"order": "id"}).status_code == 400


WRONG = [  # target, value, mode, code, pointer
    ("ip", "198.51.100.300", "block", 10001, "/configuration/value"),
    ("ip", "198.51.100.0/24", "block", 10001, "/configuration/value"),
    ("ip", "2001:db8::1", "block", 10001, "/configuration/value"),
    ("ip6", "198.51.100.1", "block", 10001, "/configuration/value"),
    ("ip6", "fe80::1%eth0", "block", 10001, "/configuration/value"),
    ("ip6", "::ffff:198.51.100.1", "block", 10001, "/configuration/value"),
    ("ip_range", "198.51.100.1/24", "block", 10001, "/configuration/value"),
    ("ip_range", "198.51.100.0/33", "block", 10001, "/configuration/value"),
    ("ip_range", "198.51.100.0/255.255.255.0", "block", 10001, "/configuration/value"),
    ("ip_range", "::ffff:0:0/104", "block", 10001, "/configuration/value"),
    ("ip_range", "1" * 5000, "block", 10001, "/configuration/value"),
    ("asn", "ASx", "block", 10001, "/configuration/value"),
    ("asn", "AS64496", "block", 10001, "/configuration/target"),
    ("country", "Germany", "block", 10001, "/configuration/value"),
    ("country", "DE", "block", 10001, "/configuration/target"),
    ("list", "not-there", "block", 10001, "/configuration/value"),
    ("list", "No name", "block", 10001, "/configuration/value"),
    ("planet", "Mars", "block", 19002, "/configuration/target"),
    ("ip", "198.51.100.1", "challenge", 19001, "/mode"),
    ("ip", "198.51.100.1", "js_challenge", 19001, "/mode"),
    ("ip", "198.51.100.1", "managed_challenge", 19001, "/mode"),
    ("ip", "198.51.100.1", "drop", 19002, "/mode"),
]


@pytest.mark.parametrize(("target", "value", "mode", "code", "pointer"), WRONG)
def test_bad_input_says_why_and_changes_nothing(
    of_zone: Rules, of_account: Rules, target: str, value: str, mode: str, code: int, pointer: str
) -> None:
    for rules in (of_zone, of_account):
        answer = rules.add(target, value, mode)
        error = answer.json()["errors"][0]
        assert (answer.status_code, error["code"], error["source"]["pointer"]) == (400, code, pointer), answer.text
        assert rules.listed() == []


def test_the_same_target_twice_is_refused_in_one_place(of_zone: Rules, of_account: Rules) -> None:
    first = of_zone.made("ip6", "2001:db8::1")
    of_account.made("ip6", "2001:db8::1")
    again = of_zone.add("ip6", "2001:0db8::0001", "whitelist")
    assert (again.status_code, again.json()["errors"][0]["code"]) == (400, 10009)
    assert first["id"] in again.json()["errors"][0]["message"]
    other = of_zone.made("ip", "198.51.100.1")
    body = {"configuration": first["configuration"], "mode": "block"}
    moved = of_zone.http.patch(f"{of_zone.path}/{other['id']}", json=body)
    assert moved.json()["errors"][0]["code"] == 10009


def test_what_is_not_there_and_unknown_fields(of_zone: Rules, of_account: Rules) -> None:
    rule = of_account.made("ip", "198.51.100.1")
    for verb in ("GET", "PATCH", "DELETE"):
        for id_ in (UNKNOWN, rule["id"]):  # one of the account is none of the zone
            answer = of_zone.http.request(verb, f"{of_zone.path}/{id_}", json={} if verb == "PATCH" else None)
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, 10006)
    for owner, code in ((f"zones/{UNKNOWN}", 1001), (f"accounts/{UNKNOWN}", 7003)):
        answer = of_zone.http.get(f"/client/v4/{owner}/firewall/access_rules/rules")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, code)
    for more in ({"paused": True}, {"x_causeway": {"expires": "2030-01-01T00:00:00Z"}}):
        assert of_zone.add("ip", "198.51.100.1", **more).json()["errors"][0]["code"] == 10012
    assert of_zone.listed() == []


def test_a_character_that_no_database_can_keep_is_refused_wherever_it_comes(of_zone: Rules) -> None:
    rule = {"mode": "block", "configuration": {"target": "ip", "value": "198.51.100.9"}, "notes": "a\x00b"}
    for answer in (
        of_zone.http.post(of_zone.path, json=rule),
        of_zone.http.get(of_zone.path, params={"notes": "\x00"}),
    ):
        [error] = answer.json()["errors"]
        assert (answer.status_code, error["code"]) == (400, 19002 if answer.request.method == "GET" else 10001)
        assert "NUL" in error["message"]
