"""Asking again changes nothing twice: keys, announced repeats, concurrent copies of one request."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from running import ZONE, Api, Server, free_port

AGAIN = {"x-stainless-retry-count": "1"}


def ids(api: Api) -> list[str]:
    return [a["id"] for a in api.http.get(api.apps, params={"per_page": 1000}).json()["result"]]


def test_the_same_create_without_any_sign_of_a_repeat_is_a_conflict(api: Api) -> None:
    body = api.body()
    first = api.http.post(api.apps, json=body).json()["result"]
    second = api.http.post(api.apps, json=body, headers={"x-stainless-retry-count": "0"})
    assert (second.status_code, second.json()["errors"][0]["code"]) == (400, 13002)
    assert first["id"] in second.json()["errors"][0]["message"]


def test_an_announced_repeat_answers_what_the_first_one_made(api: Api) -> None:
    body = api.body(x_causeway={"name": "once"})
    first = api.http.post(api.apps, json=body).json()["result"]
    again = api.http.post(api.apps, json=body, headers=AGAIN)
    assert (again.status_code, again.json()["result"]) == (200, first)
    assert ids(api) == [first["id"]]


def test_an_announced_repeat_of_something_else_is_no_repeat(api: Api) -> None:
    body = api.body()
    api.http.post(api.apps, json=body)
    other = api.http.post(api.apps, json=body | {"ip_firewall": True}, headers=AGAIN)
    assert other.json()["errors"][0]["code"] == 13002
    fresh = api.http.post(api.apps, json=api.body(), headers=AGAIN)
    assert fresh.status_code == 200, "the first try may never have arrived"
    assert len(ids(api)) == 2


def test_the_official_sdk_repeats_after_a_lost_answer(api: Api, running: Server) -> None:
    class LosesTheFirstAnswer(httpx.HTTPTransport):
        lost = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.method in ("POST", "DELETE") and not LosesTheFirstAnswer.lost:
                LosesTheFirstAnswer.lost += 1
                answer.read()
                answer.close()
                raise httpx.ReadTimeout("the answer got lost", request=request)
            return answer

    with running.sdk(http_client=httpx.Client(transport=LosesTheFirstAnswer())) as sdk:
        made = sdk.spectrum.apps.create(
            zone_id=api.zone_id,
            dns={"type": "CNAME", "name": f"lost.{ZONE}"},
            protocol=f"tcp/{free_port()}",
            origin_direct=["tcp://192.0.2.1:1"],
        )
        assert LosesTheFirstAnswer.lost == 1
        assert made is not None
        assert ids(api) == [made.id]
        LosesTheFirstAnswer.lost = 0
        gone = sdk.spectrum.apps.delete(made.id, zone_id=api.zone_id)
        assert LosesTheFirstAnswer.lost == 1
        assert gone is not None
        assert gone.id == made.id


def test_a_key_makes_one_application_however_often(api: Api) -> None:
    body, key = api.body(), {"Idempotency-Key": "order-4711"}
    first = api.http.post(api.apps, json=body, headers=key).json()["result"]
    for _ in range(3):
        assert api.http.post(api.apps, json=body, headers=key).json()["result"] == first
    assert ids(api) == [first["id"]]


def test_a_key_used_for_something_else_is_refused(api: Api) -> None:
    key = {"Idempotency-Key": "order-4712"}
    first = api.http.post(api.apps, json=api.body(), headers=key).json()["result"]
    other = api.http.post(api.apps, json=api.body(), headers=key)
    assert (other.status_code, other.json()["errors"][0]["code"]) == (400, 19003)
    api.http.delete(f"{api.apps}/{first['id']}")
    gone = api.http.post(api.apps, json=api.body(protocol=first["protocol"]), headers=key)
    assert gone.json()["errors"][0]["code"] == 19003
    assert first["id"] in gone.json()["errors"][0]["message"]
    assert ids(api) == []


def test_a_refused_create_does_not_use_up_its_key(api: Api) -> None:
    key = {"Idempotency-Key": "order-4713"}
    assert api.http.post(api.apps, json=api.body(tls="full"), headers=key).status_code == 400
    assert api.http.post(api.apps, json=api.body(), headers=key).status_code == 200


def test_a_key_has_a_limit(api: Api) -> None:
    assert api.http.post(api.apps, json=api.body(), headers={"Idempotency-Key": "k" * 256}).status_code == 400


def test_deleting_again_is_done_only_if_it_was_deleted(api: Api) -> None:
    made = api.create()
    path = f"{api.apps}/{made['id']}"
    assert api.http.delete(path).status_code == 200
    assert api.http.delete(path).status_code == 404
    assert api.http.delete(path, headers=AGAIN).json()["result"] == {"id": made["id"]}
    assert api.http.delete(f"{api.apps}/{'0' * 32}", headers=AGAIN).status_code == 404


def test_a_zone_created_again_is_the_same_zone(api: Api) -> None:
    account = api.http.get("/client/v4/accounts").json()["result"][0]["id"]
    body = {"name": "again.example.org", "account": {"id": account}}
    first = api.http.post("/client/v4/zones", json=body).json()["result"]
    again = api.http.post("/client/v4/zones", json=body, headers=AGAIN)
    assert (again.status_code, again.json()["result"]) == (200, first)
    api.http.delete(f"/client/v4/zones/{first['id']}")


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "crowd"}, AGAIN])
def test_a_crowd_asking_for_the_same_gets_one(api: Api, headers: dict[str, str]) -> None:
    body = api.body()
    with ThreadPoolExecutor(12) as crowd:
        answers = list(crowd.map(lambda _: api.http.post(api.apps, json=body, headers=headers), range(24)))
    assert len(ids(api)) == 1
    codes = sorted(answer.status_code for answer in answers)
    assert codes == ([200] + [400] * 23 if not headers else [200] * 24)


def test_changes_at_once_all_happen(api: Api) -> None:
    bodies = [api.body(protocol=f"tcp/{21_600 + n}") for n in range(24)]
    with ThreadPoolExecutor(12) as crowd:
        made = list(crowd.map(lambda body: api.http.post(api.apps, json=body).json()["result"]["id"], bodies))
        assert sorted(ids(api)) == sorted(made)
        gone = list(crowd.map(lambda one: api.http.delete(f"{api.apps}/{one}").status_code, made))
    assert gone == [200] * 24
    assert ids(api) == []


def test_a_change_that_changes_nothing_touches_nothing(api: Api) -> None:
    made = api.create()
    version = api.http.get("/api/v1/status").json()["result"]["edges"][0]["version"]
    for verb, body in (("PUT", made), ("PATCH", {}), ("PATCH", {"tls": "off"})):
        assert api.http.request(verb, f"{api.apps}/{made['id']}", json=body).json()["result"] == made
    assert api.http.get("/api/v1/status").json()["result"]["edges"][0]["version"] == version
