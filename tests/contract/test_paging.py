"""Lists: pages, order, direction, filters; arrays by repeated keys and by commas."""

from collections.abc import Iterator
from typing import Any

import pytest
from running import ZONE, Api


@pytest.fixture
def seven(api: Api) -> Iterator[list[dict[str, Any]]]:
    """Seven applications, made in another order than that of their names."""
    names = ("d", "a", "g", "b", "f", "c", "e")
    yield [
        api.create(protocol=f"tcp/{21_500 + n}", dns={"type": "CNAME", "name": f"{name}.{ZONE}"})
        for n, name in enumerate(names)
    ]


def listed(api: Api, **query: object) -> list[dict[str, Any]]:
    answer = api.http.get(api.apps, params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    result = answer.json()["result"]
    assert isinstance(result, list)
    return result


def test_result_info_is_there_only_if_a_page_was_asked_for(api: Api, seven: list[dict[str, Any]]) -> None:
    assert "result_info" not in api.http.get(api.apps).json()
    assert "result_info" not in api.http.get(api.apps, params={"per_page": 2}).json()
    info = api.http.get(api.apps, params={"page": 2, "per_page": 3}).json()["result_info"]
    assert info == {"page": 2, "per_page": 3, "count": 3, "total_count": 7, "total_pages": 3}
    info = api.http.get(api.apps, params={"page": 1}).json()["result_info"]
    assert info == {"page": 1, "per_page": 20, "count": 7, "total_count": 7, "total_pages": 1}


def test_pages_do_not_overlap_and_end_with_an_empty_one(api: Api, seven: list[dict[str, Any]]) -> None:
    pages = [listed(api, page=n, per_page=3) for n in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert sorted(a["id"] for page in pages for a in page) == sorted(a["id"] for a in seven)
    assert listed(api, page=999_999_999, per_page=1000) == []


ORDERS = [("protocol", "protocol"), ("app_id", "id"), ("created_on", "created_on"), ("modified_on", "modified_on")]


@pytest.mark.parametrize(("order", "field"), ORDERS)
def test_every_order_goes_both_ways(api: Api, seven: list[dict[str, Any]], order: str, field: str) -> None:
    api.http.patch(f"{api.apps}/{seven[0]['id']}", json={"ip_firewall": True})
    up = [a[field] for a in listed(api, order=order)]
    assert up == sorted(up)
    assert [a[field] for a in listed(api, order=order, direction="desc")] == sorted(up, reverse=True)


def test_order_by_hostname_is_also_the_order_of_pages(api: Api, seven: list[dict[str, Any]]) -> None:
    pages = [a["dns"]["name"][0] for n in (1, 2, 3, 4) for a in listed(api, order="dns", page=n, per_page=2)]
    assert pages == list("abcdefg")
    assert [a["dns"]["name"][0] for a in listed(api, order="dns", direction="desc")] == list("gfedcba")


def test_without_an_order_the_oldest_comes_first(api: Api, seven: list[dict[str, Any]]) -> None:
    assert [a["id"] for a in listed(api)] == [a["id"] for a in seven]


WRONG = [
    {"page": "0"},
    {"page": "-1"},
    {"page": "x"},
    {"page": "1.5"},
    {"page": "9" * 30},
    {"page": "１"},
    {"per_page": "0"},
    {"per_page": "1001"},
    {"order": "name"},
    {"direction": "up"},
    {"dry_run": "maybe"},
]


@pytest.mark.parametrize("query", WRONG)
def test_a_query_parameter_that_makes_no_sense_is_named(api: Api, query: dict[str, str]) -> None:
    answer = api.http.request("POST" if "dry_run" in query else "GET", api.apps, params=query, json=api.body())
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["code"], error["source"]["pointer"]) == (400, 19002, next(iter(query)))


@pytest.fixture
def zones(api: Api) -> Iterator[dict[str, str]]:
    account = api.http.get("/client/v4/accounts").json()["result"][0]["id"]
    made = {}
    for name in ("p1.example.org", "p2.example.org", "p3.example.org"):
        answer = api.http.post("/client/v4/zones", json={"name": name, "account": {"id": account}})
        made[name] = answer.json()["result"]["id"]
    yield made
    for zone in made.values():
        assert api.http.delete(f"/client/v4/zones/{zone}").status_code == 200


FILTERS: list[tuple[list[tuple[str, str]], list[str]]] = [
    ([("name", "p2.example.org")], ["p2"]),
    ([("name", "P2.Example.Org.")], ["p2"]),
    ([("name", "p1.example.org"), ("name", "p3.example.org")], ["p1", "p3"]),
    ([("name", "p1.example.org,p3.example.org")], ["p1", "p3"]),
    ([("name", "nothing.example.org")], []),
    ([("name", "p1.example.org"), ("account.id", "0" * 32)], []),
    ([("name", "p1.example.org"), ("account.id", "0" * 32), ("match", "any")], ["p1"]),
    ([("name", "p1.example.org"), ("status", "active")], ["p1"]),
    ([("name", "p1.example.org"), ("status", "pending")], []),
    ([("account.name", "nobody")], []),
    ([("order", "name"), ("direction", "desc"), ("per_page", "2")], ["p3", "p2"]),
    ([("page", "2"), ("per_page", "3")], ["p3"]),
    ([("page", "3"), ("per_page", "3")], []),
]


@pytest.mark.parametrize(("query", "names"), FILTERS)
def test_zones_are_filtered_sorted_and_paged(
    api: Api, zones: dict[str, str], query: list[tuple[str, str]], names: list[str]
) -> None:
    answer = api.http.get("/client/v4/zones", params=query).json()
    assert [zone["name"].partition(".")[0] for zone in answer["result"]] == names
    assert answer["result_info"]["count"] == len(names)


def test_a_filter_operator_is_refused_rather_than_ignored(api: Api) -> None:
    answer = api.http.get("/client/v4/zones", params={"name": "contains:example"})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 19001)


def test_live_state_takes_several_ids_both_ways(api: Api, seven: list[dict[str, Any]]) -> None:
    one, two = seven[1]["id"], seven[4]["id"]
    for params in ([("id", one), ("id", two)], [("id", f"{one},{two}")]):
        found = api.http.get("/api/v1/applications", params=params).json()["result"]
        assert {state["id"] for state in found} == {one, two}


def test_accounts_are_paged(api: Api) -> None:
    answer = api.http.get("/client/v4/accounts", params={"page": 1}).json()
    assert answer["result_info"] == {"page": 1, "per_page": 20, "count": 1, "total_count": 1, "total_pages": 1}
    assert api.http.get("/client/v4/accounts", params={"page": 2}).json()["result"] == []
    assert api.http.get("/client/v4/accounts", params={"name": "nobody"}).json()["result"] == []
