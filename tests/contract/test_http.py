"""HTTP itself: methods, paths, content types, any bytes as a request; and that no secret leaves by a side door."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import Api, Server, eventually

from causeway.model.document.application import WRITABLE

ID = "0" * 32
ZONE = f"/client/v4/zones/{ID}"
METHODS = [  # path                                        has
    ("/", "GET, HEAD"),
    ("/healthz", "GET, HEAD"),
    ("/api/docs", "GET, HEAD"),
    ("/client/v4/accounts", "GET, HEAD"),
    ("/client/v4/zones", "GET, POST, HEAD"),
    (ZONE, "GET, DELETE, HEAD"),
    (f"{ZONE}/spectrum/apps", "GET, POST, HEAD"),
    (f"{ZONE}/spectrum/apps/{ID}", "GET, PUT, PATCH, DELETE, HEAD"),
    ("/api/v1/tokens", "GET, POST, HEAD"),
    (f"/api/v1/tokens/{ID}", "DELETE"),
]


@pytest.mark.parametrize(("path", "methods"), METHODS)
def test_a_method_that_is_not_there_is_answered_with_those_that_are(api: Api, path: str, methods: str) -> None:
    for method in ("OPTIONS", "TRACE", "PROPFIND", *{"POST", "PUT", "PATCH", "DELETE"}.difference(methods.split(", "))):
        refused = api.http.request(method, path)
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (405, 7001), method
        assert refused.headers["Allow"] == methods
        assert methods in refused.json()["errors"][0]["message"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/api/docs", "/client/v4/zones", "/api/v1/status", ZONE])
def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    got, head = api.http.get(path), api.http.head(path)
    assert head.content == b""
    assert (head.status_code, head.headers["content-type"]) == (got.status_code, got.headers["content-type"])
    assert int(head.headers["content-length"]) > 0
    assert api.http.get("/healthz").status_code == 200, "the connection is in step"


PATHS = [
    "/client/v4/zones/",
    "//client/v4/zones",
    "/client/v4/../v4/zones",
    "/client/v4/zones%00",
    "/client/v4/zones/%ff%fe",
    "/client/v4/zones/%0d%0aX-Evil:%201",
    "/client/v4/zones/%E6%97%A5",
    f"/client/v4/zones/{ID}%2f",
    "/client/v4/zones/<script>alert(1)</script>",
    "/client/v4/zones/" + "a" * 20_000,
    "/api/v1/tokens/..%2f..",
    "/static/../../../../etc/passwd",
    "/docs",
    "/favicon.ico",
]


def raw(server: Server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            return answer.read()


@pytest.mark.parametrize("path", PATHS, ids=[path[:40] for path in PATHS])
def test_an_odd_path_is_not_there(running: Server, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {running.token}\r\n\r\n"
    answer = raw(running, head.encode())
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 404 ")
    assert b"x-evil" not in headers.lower()
    assert b"content-type: application/json" in headers.lower()
    [error] = json.loads(body)["errors"]
    assert error["code"] in (7000, 7003)
    assert len(error["message"]) < 25_000


NOT_HTTP = [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\x00" * 100, b"SSH-2.0-x\r\n", b"GET / HTTP/9.9\r\n\r\n"]


@pytest.mark.parametrize("request_bytes", NOT_HTTP)
def test_what_is_not_http_is_told_so_and_hurts_nobody(running: Server, request_bytes: bytes) -> None:
    answer = raw(running, request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert running.status_of("/healthz") == 200


def test_half_a_request_keeps_nobody_else_waiting(running: Server) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as slow:
        slow.sendall(b"POST /client/v4/zones HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
        assert running.status_of("/readyz") == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "é"])
def test_a_body_is_json_whatever_its_type_says(api: Api, kind: str) -> None:
    body = json.dumps(api.body()).encode()
    answer = api.http.post(
        api.apps, params={"dry_run": "1"}, content=body, headers={"Content-Type": kind.encode("latin-1")}
    )
    assert answer.status_code == 200, answer.text
    refused = api.http.post(api.apps, content=b"protocol=tcp/22", headers={"Content-Type": kind.encode("latin-1")})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 6007)


NOT_JSON = [
    b"null null",
    b'{"protocol": Infinity}',
    b'{"protocol": -Infinity}',
    b'{"protocol": 1e999}',
    b'{"protocol": ' + b"9" * 10_000 + b"}",
    b'{"protocol": "\\ud800"}',
    b'{"protocol": "\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"protocol": "tcp/22"}',
    '{"protocol": "tcp/22"}'.encode("utf-16"),
    b'{"protocol": "tcp/22"} {"protocol": "tcp/23"}',
    b"{'protocol': 'tcp/22'}",
    b'{"protocol": "tcp/22",}',
    b'{"x_causeway":' * 5_000 + b"1" + b"}" * 5_000,
]


@pytest.mark.parametrize("body", NOT_JSON, ids=[repr(body[:30]) for body in NOT_JSON])
def test_what_only_some_parsers_take_for_json_is_none(api: Api, body: bytes) -> None:
    refused = api.http.post(api.apps, content=body)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 6007)


WRONG_KINDS = [  # nothing is taken for false, empty or missing that somebody may have meant
    ("ip_firewall", 0),
    ("ip_firewall", ""),
    ("ip_firewall", []),
    ("argo_smart_routing", 0),
    ("argo_smart_routing", {}),
    ("origin_direct", {}),
    ("origin_direct", False),
    ("origin_direct", ""),
    ("origin_dns", False),
    ("origin_dns", []),
    ("tls", False),
    ("traffic_type", 0),
    ("proxy_protocol", False),
    ("dns", []),
    ("dns", {"name": "app.example.net", "type": 0}),
    ("edge_ips", []),
    ("edge_ips", {"type": 0}),
    ("edge_ips", {"connectivity": False}),
    ("edge_ips", {"ips": {}}),
    ("virtual_network_id", 0),
    ("virtual_network_id", []),
    ("origin_worker_id", False),
    ("x_causeway", []),
    ("x_causeway", False),
]


@pytest.mark.parametrize(("name", "value"), WRONG_KINDS, ids=str)
def test_an_empty_value_of_the_wrong_kind_is_refused(api: Api, name: str, value: object) -> None:
    refused = api.http.post(api.apps, params={"dry_run": "1"}, json=api.body() | {name: value})
    assert refused.status_code == 400, refused.text
    assert name in refused.text


UNSET = [
    ("ip_firewall", None),
    ("tls", ""),
    ("traffic_type", ""),
    ("proxy_protocol", ""),
    ("origin_dns", {}),
    ("origin_dns", None),
    ("origin_port", 0),
    ("dns", {"name": "app.example.net", "type": ""}),
    ("edge_ips", {}),
    ("edge_ips", {"type": "", "connectivity": "", "ips": []}),
    ("virtual_network_id", ""),
    ("x_causeway", None),
]


@pytest.mark.parametrize(("name", "value"), UNSET, ids=str)
def test_what_clients_send_for_what_they_do_not_set_is_the_default(api: Api, name: str, value: object) -> None:
    answer = api.http.post(api.apps, params={"dry_run": "1"}, json=api.body() | {name: value})
    assert answer.status_code == 200, answer.text


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
ANY_BODY = ANYTHING | st.dictionaries(st.sampled_from(WRITABLE), ANYTHING, max_size=4)
shared = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def in_the_envelope(answer: httpx.Response) -> dict[str, Any]:
    told = answer.json()
    assert set(told) >= {"success", "errors", "messages", "result"}
    assert told["success"] is (answer.status_code == 200)
    assert bool(told["errors"]) is not told["success"]
    return dict(told)


@shared
@given(ANY_BODY, st.sampled_from(["POST", "PUT", "PATCH"]), st.booleans())
def test_no_document_is_an_error_of_ours(api: Api, body: Any, verb: str, is_filled_up: bool) -> None:
    if is_filled_up and isinstance(body, dict):
        body = api.body() | body
    path = api.apps if verb == "POST" else f"{api.apps}/{present(api)}"
    answer = api.http.request(verb, path, params={"dry_run": "true"}, json=body)
    assert answer.status_code in (200, 400, 403), answer.text
    in_the_envelope(answer)


@shared
@given(st.binary(max_size=200))
def test_no_bytes_are_an_error_of_ours(api: Api, body: bytes) -> None:
    for path in (api.apps, "/client/v4/zones", "/api/v1/tokens"):
        answer = api.http.post(path, content=body)
        assert answer.status_code == 400, answer.text
        in_the_envelope(answer)


NAMES = ["page", "per_page", "order", "direction", "name", "account.id", "match", "status", "id", "dry_run", "x"]


@shared
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=12)), max_size=4))
def test_no_query_is_an_error_of_ours(api: Api, query: list[tuple[str, str]]) -> None:
    for path in (api.apps, "/client/v4/zones", "/client/v4/accounts", "/api/v1/applications"):
        answer = api.http.get(path, params=query)
        assert answer.status_code in (200, 400), answer.text
        in_the_envelope(answer)


def present(api: Api) -> str:
    """An application that is there; made once."""
    found = api.http.get(api.apps).json()["result"]
    return str(found[0]["id"] if found else api.create()["id"])


def test_nothing_of_all_this_was_a_bug(running: Server) -> None:
    assert "Traceback" not in running.log
    assert " ERROR " not in running.log


def test_no_token_is_found_but_in_its_file(alone: Callable[..., Server]) -> None:
    server = alone().start()
    api = server.api()
    made = api.http.post("/api/v1/tokens", json={"name": "ci", "scope": "write"}).json()["result"]
    api.create()
    guess = "guess" * 10
    with server.http(guess) as stranger:
        assert stranger.get(api.apps, params={"token": guess}).status_code == 401
    secrets = [server.token, made["value"], guess]
    assert server.process
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert children, "the process that serves"
    processes = [Path(f"/proc/{one}") for one in (pid, *children)]
    arguments = [file.read_bytes() for one in processes for file in (one / "cmdline", *one.glob("task/*/comm"))]
    assert server.stop() == 0
    files = [path for path in server.folder.rglob("*") if path.is_file() and path.name != "token"]
    assert {"log", "causeway.sqlite3"} <= {path.name for path in files}
    assert any("edge" in path.parts for path in files), "the snapshots too"
    for secret in secrets:
        for content in (*arguments, *(path.read_bytes() for path in files)):
            assert secret.encode() not in content


def test_only_the_owner_reads_what_is_stored(alone: Callable[..., Server]) -> None:
    server = alone().start()
    server.api().create()
    data = server.folder / "causeway-data"
    assert not [path for path in (data, *data.rglob("*")) if path.stat().st_mode & 0o077]
    eventually(lambda: server.status_of("/readyz") == 200, "it serves")
