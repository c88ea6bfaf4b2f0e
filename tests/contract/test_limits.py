"""`x_causeway.limits` over plain HTTP: what is stored, refused, and who is turned away."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from running import Api, ask, eventually, free_port, upper_origin

HERE = "127.0.0.1"


@pytest.fixture
def origin() -> Iterator[int]:
    with upper_origin() as port:
        yield port


def limited(api: Api, origin: int, *limits: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    port = free_port()
    made = api.create(
        protocol=f"tcp/{port}", origin_direct=[f"tcp://{HERE}:{origin}"], x_causeway={"limits": list(limits)}
    )
    return port, made


def is_let_in(port: int, host: str = HERE) -> bool:
    try:
        return ask(port, host) == b"HELLO\n"
    except (ConnectionResetError, BrokenPipeError):
        return False


def counters(api: Api, made: dict[str, Any]) -> dict[str, int]:
    [state] = api.http.get("/api/v1/applications", params={"id": made["id"]}).json()["result"]
    found: dict[str, int] = state["counters"]
    return found


def test_limits_are_kept_as_they_were_given(api: Api, origin: int) -> None:
    asked = [
        {"of": "application", "connections": 100, "connections_per_s": 50},
        {"of": "source", "ipv4_prefix": 24, "ipv6_prefix": 56, "connections": 10, "ban_s": 1.5},
        {"of": "source", "connections_per_s": 5},
    ]
    _, made = limited(api, origin, *asked)
    shown = [*asked[:2], {"of": "source", "ipv4_prefix": 32, "ipv6_prefix": 64, "connections_per_s": 5}]
    assert made["x_causeway"] == {"limits": shown}
    one = f"{api.apps}/{made['id']}"
    assert api.http.patch(one, json={"x_causeway": {"name": "x"}}).json()["result"]["x_causeway"]["limits"] == shown
    [state] = api.http.get("/api/v1/applications", params={"id": made["id"]}).json()["result"]
    assert {at["not_carried"]["code"] for at in state["listeners"]} <= {"limits", "edge_loopback", "fast_path_off"}
    cleared = api.http.patch(one, json={"x_causeway": {"limits": None}}).json()["result"]
    assert cleared["x_causeway"] == {"name": "x"}


WRONG = [  # entry, code, pointer
    ({"of": "planet", "connections": 1}, 19002, "/x_causeway/limits/0/of"),
    ({"of": "source"}, 19002, "/x_causeway/limits/0"),
    ({"of": "source", "connections": 0}, 19002, "/x_causeway/limits/0/connections"),
    ({"of": "source", "connections": 1.5}, 19002, "/x_causeway/limits/0/connections"),
    ({"of": "source", "connections": 1, "ipv4_prefix": 33}, 19002, "/x_causeway/limits/0/ipv4_prefix"),
    ({"of": "source", "connections": 1, "ban_s": -1}, 19002, "/x_causeway/limits/0/ban_s"),
    ({"of": "source", "sessions": 1}, 10012, "/x_causeway/limits/0/sessions"),
    ({"of": "application", "connections": 1, "ipv4_prefix": 24}, 10012, "/x_causeway/limits/0/ipv4_prefix"),
    ({"of": "asn", "connections": 1, "ipv4_prefix": 24}, 10012, "/x_causeway/limits/0/ipv4_prefix"),
    ({"of": "asn"}, 19002, "/x_causeway/limits/0"),
]


@pytest.mark.parametrize(("entry", "code", "pointer"), WRONG)
def test_a_wrong_limit_is_named_and_nothing_is_made(api: Api, entry: dict[str, Any], code: int, pointer: str) -> None:
    answer = api.http.post(api.apps, json=api.body(x_causeway={"limits": [entry]}))
    error = answer.json()["errors"][0]
    assert (answer.status_code, error["code"], error["source"]["pointer"]) == (400, code, pointer), answer.text
    assert api.http.get(api.apps).json()["result"] == []


def test_too_many_and_two_of_the_same_are_refused(api: Api) -> None:
    same = [{"of": "application", "connections": 1}, {"of": "application", "connections_per_s": 1}]
    for limits in (same, [{"of": "source", "ipv4_prefix": n, "connections": 1} for n in range(1, 6)]):
        answer = api.http.post(api.apps, json=api.body(x_causeway={"limits": limits}))
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 19002)


def test_what_is_over_the_limit_is_refused_counted_and_let_in_when_there_is_room(api: Api, origin: int) -> None:
    port, made = limited(api, origin, {"of": "source", "connections": 2})
    with ExitStack() as held:
        for _ in range(2):
            connection = held.enter_context(socket.create_connection((HERE, port), timeout=10))
            connection.sendall(b"a\n")
            assert connection.recv(10) == b"A\n"
        assert not is_let_in(port)
    eventually(lambda: is_let_in(port), "there is room again")
    assert counters(api, made)["limits_refused_total"] >= 1


def test_bytes_over_the_limit_wait_and_all_of_them_come(api: Api, origin: int) -> None:
    port, made = limited(api, origin, {"of": "source", "bytes_per_s": 200_000})
    assert made["x_causeway"]["limits"][0]["bytes_per_s"] == 200_000
    line = b"a" * 299_999 + b"\n"  # there and back: a second at once, two more to wait
    began_s = time.monotonic()
    with socket.create_connection((HERE, port), timeout=10) as connection, connection.makefile("rb") as lines:
        connection.sendall(line)
        assert lines.readline() == line.upper()
    assert 1.5 < time.monotonic() - began_s < 8


def test_a_ban_is_told_by_explain_and_ends(api: Api, origin: int) -> None:
    port, made = limited(api, origin, {"of": "source", "connections_per_s": 1, "ban_s": 2})
    assert is_let_in(port)
    while is_let_in(port):
        pass
    said = api.http.get("/api/v1/firewall/explain", params={"address": HERE}).json()["result"]["applications"]
    assert 0 < next(app for app in said if app["id"] == made["id"])["banned_s"] <= 2
    assert counters(api, made)["limits_bans_total"] >= 1
    eventually(lambda: is_let_in(port), "the ban has ended")


def test_clients_of_an_as_number_are_limited_together_and_without_data_nobody_is(api: Api, origin: int) -> None:
    port = free_port()
    asked = {"of": "asn", "connections": 1, "ban_s": 2}
    body = api.body(protocol=f"tcp/{port}", origin_direct=[f"tcp://{HERE}:{origin}"], x_causeway={"limits": [asked]})
    answer = api.http.post(api.apps, json=body).json()
    assert answer["result"]["x_causeway"]["limits"] == [asked]
    [message] = answer["messages"]
    assert "no data" in message["message"] and "causeway geo update --asn" in message["message"]
    [state] = api.http.get("/api/v1/applications", params={"id": answer["result"]["id"]}).json()["result"]
    assert state["notice"] == message["message"]
    assert message["message"] in api.http.get("/api/v1/status").json()["result"]["notices"]
    with ExitStack() as held:

        def hold() -> None:
            connection = held.enter_context(socket.create_connection((HERE, port), timeout=10))
            connection.sendall(b"a\n")
            assert connection.recv(10) == b"A\n"

        hold()
        assert is_let_in(port), "nobody's AS number is known"
        database = "/api/v1/firewall/databases/asn"
        try:
            assert api.http.put(database, content="127.0.0.0/8,64500\n").status_code == 200
            [state] = api.http.get("/api/v1/applications", params={"id": answer["result"]["id"]}).json()["result"]
            assert state["notice"] is None
            hold()  # the first that is counted
            assert not is_let_in(port)
            explained = api.http.get("/api/v1/firewall/explain", params={"address": "127.0.0.77"}).json()["result"]
            one = next(app for app in explained["applications"] if app["id"] == answer["result"]["id"])
            assert 0 < one["banned_s"] <= 2 and one["asn"] == 64500
        finally:
            assert api.http.delete(database).status_code == 200
        assert is_let_in(port), "nobody tells any more"
