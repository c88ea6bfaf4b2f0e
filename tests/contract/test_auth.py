"""Who may do what: tokens, scopes, and the brake on guessing."""

import sqlite3
from collections.abc import Callable

import httpx
import pytest
from running import Api, Server

WITHOUT_TOKEN = ["/", "/healthz", "/readyz", "/leadz", "/api/docs", "/api/openapi.json"]
PROTECTED = [
    ("GET", "/client/v4/accounts"),
    ("GET", "/client/v4/zones"),
    ("POST", "/client/v4/zones"),
    ("GET", "/client/v4/user/tokens/verify"),
    ("GET", "/client/v4/zones/0/spectrum/apps"),
    ("POST", "/client/v4/zones/0/spectrum/apps"),
    ("PUT", "/client/v4/zones/0/spectrum/apps/0"),
    ("PATCH", "/client/v4/zones/0/spectrum/apps/0"),
    ("DELETE", "/client/v4/zones/0/spectrum/apps/0"),
    ("GET", "/api/v1/status"),
    ("GET", "/api/v1/applications"),
    ("GET", "/api/v1/tail"),
    ("GET", "/api/v1/tokens"),
    ("POST", "/api/v1/tokens"),
    ("DELETE", "/api/v1/tokens/0"),
]
HEADERS = [  # sent                                                   the sentence says
    ({}, "no token"),
    ({"X-Auth-Email": "a@example.net", "X-Auth-Key": "k" * 37}, "X-Auth-Key"),
    ({"X-Auth-User-Service-Key": "v1.0-x"}, "X-Auth-Key"),
    ({"Authorization": "Basic YTpi"}, "'Basic'"),
]


def public(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, trust_env=False, verify=False)


@pytest.mark.parametrize("path", WITHOUT_TOKEN)
def test_pages_and_probes_need_no_token(running: Server, path: str) -> None:
    with public(running) as http:
        assert http.get(path).status_code == 200


@pytest.mark.parametrize(("headers", "says"), HEADERS)
@pytest.mark.parametrize(("verb", "path"), PROTECTED)
def test_everything_else_does(running: Server, verb: str, path: str, headers: dict[str, str], says: str) -> None:
    with public(running) as http:
        answer = http.request(verb, path, headers=headers)
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["code"]) == (401, 10000)
    assert says in error["message"]
    assert "Bearer" in error["message"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_stranger_cannot_make_the_server_read_a_body(running: Server) -> None:
    with public(running) as http:
        assert http.post("/client/v4/zones", content=b"{" * 500_000).status_code == 401


def test_a_token_lives_from_its_creation_to_its_revocation(api: Api, running: Server) -> None:
    made = api.http.post("/api/v1/tokens", json={"name": "ci", "scope": "read"}).json()["result"]
    assert len(made["value"]) >= 40
    listed = api.http.get("/api/v1/tokens")
    assert made["id"] in {token["id"] for token in listed.json()["result"]}
    assert made["value"] not in listed.text
    with running.http(made["value"]) as reader:
        verified = reader.get("/client/v4/user/tokens/verify").json()["result"]
        assert verified == {"id": made["id"], "status": "active"}
        assert reader.get(api.apps).status_code == 200
        for verb, path in PROTECTED:
            if verb != "GET":
                refused = reader.request(verb, path.replace("zones/0", f"zones/{api.zone_id}"), json={})
                assert (refused.status_code, refused.json()["errors"][0]["code"]) == (403, 19004), path
        assert api.http.delete(f"/api/v1/tokens/{made['id']}").status_code == 200
        assert reader.get(api.apps).status_code == 401
    assert api.http.delete(f"/api/v1/tokens/{made['id']}").status_code == 404


def test_the_root_token_is_not_revoked_by_accident(api: Api) -> None:
    root = next(t for t in api.http.get("/api/v1/tokens").json()["result"] if t["name"] == "root")
    refused = api.http.delete(f"/api/v1/tokens/{root['id']}")
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 19003)


TOKENS = [{}, {"name": ""}, {"name": 1}, {"name": "a\nb"}, {"name": "x" * 101}, {"name": "a", "scope": "admin"}]


@pytest.mark.parametrize("body", TOKENS)
def test_tokens_are_checked(api: Api, body: dict[str, object]) -> None:
    refused = api.http.post("/api/v1/tokens", json=body)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 19002)


def test_no_value_is_stored(api: Api, running: Server) -> None:
    value = api.http.post("/api/v1/tokens", json={"name": "secret", "scope": "write"}).json()["result"]["value"]
    for path in (running.folder / "causeway-data").glob("causeway.sqlite3*"):
        assert value.encode() not in path.read_bytes()
        assert running.token.encode() not in path.read_bytes()
    with sqlite3.connect(running.folder / "causeway-data/causeway.sqlite3") as database:
        hashes = [row[0] for row in database.execute("select hash from tokens")]
    database.close()
    assert all(len(text) == 64 for text in hashes)
    assert value not in running.log


def test_guessing_is_slowed_down_and_the_right_token_is_not(alone: Callable[..., Server]) -> None:
    server = alone().start()
    with server.http("w" * 40) as stranger:
        answers = [stranger.get("/client/v4/accounts", headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(25)]
    assert [a.status_code for a in answers] == [401] * 20 + [429] * 5, "the client cannot say who it is"
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 60
    assert answers[-1].json()["errors"][0]["code"] == 19005
    with server.http() as operator:
        assert operator.get("/client/v4/accounts").status_code == 200


def test_the_token_of_the_environment_is_the_root(alone: Callable[..., Server]) -> None:
    token = "Az09_-" * 7
    server = alone(CAUSEWAY_API_TOKEN=token).start()
    with server.http(token) as http:
        assert http.get("/client/v4/accounts").status_code == 200
    assert not (server.folder / "causeway-data/token").exists()
    assert token not in server.log


@pytest.mark.parametrize("token", ["short", "x" * 39, "x" * 39 + " ", "x" * 39 + "é", "x" * 40 + "\n"])
def test_a_token_of_the_environment_that_is_none_is_refused(alone: Callable[..., Server], token: str) -> None:
    server = alone(CAUSEWAY_API_TOKEN=token)
    assert server.launch().wait(timeout=30) == 2
    assert "CAUSEWAY_API_TOKEN must have 40 or more characters" in server.log
    assert token.strip() not in server.log
