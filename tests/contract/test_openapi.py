"""The OpenAPI document and its page say what the server does."""

import re
from typing import Any

import pytest
from running import Api, Server

from causeway.api.examples import APPLICATION
from causeway.model.document.application import WRITABLE
from causeway.model.document.extension import FIELDS as EXTENSION_FIELDS

WITHOUT_BODY = {
    "/api/v1/edges/{name}/invitation",
    "/api/v1/rollouts/push",
    "/api/v1/rollouts/{number}/push",
    "/api/v1/rollouts/{number}/resume",
    "/api/v1/rollouts/{number}/rollback",
}


@pytest.fixture
def document(api: Api) -> Any:
    return api.http.get("/api/openapi.json").json()


def test_every_route_is_described(document: Any) -> None:
    assert set(document["paths"]) == {
        "/client/v4/accounts",
        "/client/v4/accounts/{account_id}",
        "/client/v4/accounts/{account_id}/firewall/access_rules/rules",
        "/client/v4/accounts/{account_id}/firewall/access_rules/rules/{rule_id}",
        "/client/v4/user/tokens/verify",
        "/client/v4/zones",
        "/client/v4/zones/{zone_id}",
        "/client/v4/zones/{zone_id}/argo/smart_routing",
        "/client/v4/zones/{zone_id}/firewall/access_rules/rules",
        "/client/v4/zones/{zone_id}/firewall/access_rules/rules/{rule_id}",
        "/client/v4/zones/{zone_id}/spectrum/apps",
        "/client/v4/zones/{zone_id}/spectrum/apps/{app_id}",
        "/api/v1/attacks",
        "/api/v1/attacks/{attack_id}",
        "/api/v1/firewall/databases",
        "/api/v1/firewall/databases/{target}",
        "/api/v1/firewall/explain",
        "/api/v1/firewall/lists",
        "/api/v1/firewall/lists/{name}",
        "/api/v1/firewall/rules",
        "/api/v1/firewall/rules/{rule_id}",
        "/api/v1/edges/{name}",
        "/api/v1/edges/{name}/invitation",
        "/api/v1/mitigation",
        "/api/v1/names",
        "/api/v1/pops",
        "/api/v1/pops/{name}",
        "/api/v1/rollouts",
        "/api/v1/rollouts/push",
        "/api/v1/rollouts/{number}",
        "/api/v1/rollouts/{number}/push",
        "/api/v1/rollouts/{number}/resume",
        "/api/v1/rollouts/{number}/rollback",
        "/api/v1/routes",
        "/api/v1/routes/gains",
        "/api/v1/status",
        "/api/v1/applications",
        "/api/v1/tail",
        "/api/v1/tokens",
        "/api/v1/tokens/{token_id}",
        "/healthz",
        "/readyz",
        "/leadz",
    }
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            assert operation["summary"], path
            if verb in ("post", "put", "patch") and path not in WITHOUT_BODY:
                [content] = operation["requestBody"]["content"].values()
                assert content["examples"], path


def test_operations_have_names_for_generated_clients(document: Any) -> None:
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)
    assert {"list_applications", "create_application", "patch_application", "verify_token"} <= set(names)
    assert not [name for name in names if not re.fullmatch("[a-z_]+", name)]


def test_parameters_of_paths_and_queries_are_described_once(document: Any) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            found = [(p["in"], p["name"]) for p in operation.get("parameters", [])]
            assert len(set(found)) == len(found), path
            assert {name for where, name in found if where == "path"} == set(re.findall(r"{(\w+)}", path))


def test_the_described_fields_are_those_that_are_read() -> None:
    assert set(APPLICATION["properties"]) == set(WRITABLE)
    assert set(APPLICATION["properties"]["x_causeway"]["properties"]) == set(EXTENSION_FIELDS)


def test_references_lead_somewhere(document: Any) -> None:
    for reference in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert reference in document["components"]["schemas"]


def test_every_example_of_an_application_is_accepted(api: Api, document: Any) -> None:
    content = document["paths"]["/client/v4/zones/{zone_id}/spectrum/apps"]["post"]["requestBody"]["content"]
    for name, example in content["application/json"]["examples"].items():
        answer = api.http.post(api.apps, params={"dry_run": "true"}, json=example["value"])
        assert answer.status_code == 200, (name, answer.text)


def examples(document: Any, verb: str, path: str) -> list[Any]:
    content = document["paths"][path][verb]["requestBody"]["content"]["application/json"]
    return [example["value"] for example in content["examples"].values()]


def test_every_other_example_is_accepted_too(api: Api, document: Any) -> None:
    one = f"{api.apps}/{api.create()['id']}"
    for body in examples(document, "patch", "/client/v4/zones/{zone_id}/spectrum/apps/{app_id}"):
        assert api.http.patch(one, params={"dry_run": "true"}, json=body).status_code == 200, body
    for body in examples(document, "post", "/api/v1/tokens"):
        made = api.http.post("/api/v1/tokens", json=body)
        assert api.http.delete(f"/api/v1/tokens/{made.json()['result']['id']}").status_code == 200, made.text
    account = api.http.get("/client/v4/accounts").json()["result"][0]["id"]
    for body in examples(document, "post", "/client/v4/zones"):
        asked = body | {"name": f"of-the-page.{body['name']}", "account": {"id": account}}
        assert set(asked) == set(body) | {"account"}
        made = api.http.post("/client/v4/zones", json=asked)
        assert made.status_code == 200, made.text
        assert api.http.delete(f"/client/v4/zones/{made.json()['result']['id']}").status_code == 200


def test_the_described_defaults_are_those_that_are_used(api: Api) -> None:
    made = api.create()
    described = {name: part["default"] for name, part in APPLICATION["properties"].items() if "default" in part}
    assert {name: made[name] for name in described} == described


@pytest.mark.parametrize("path", ["/", "/api/docs"])
def test_pages_load_nothing_from_elsewhere(running: Server, path: str) -> None:
    with running.http() as http:
        page = http.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page.text)
    assert "<script" not in page.text


def test_the_page_shows_routes_fields_and_examples(running: Server) -> None:
    with running.http() as http:
        page = http.get("/api/docs").text
    for text in ("spectrum/apps/{app_id}", "proxy_protocol_from", "tcp://192.0.2.10:22", "PATCH", "openapi.json"):
        assert text in page
