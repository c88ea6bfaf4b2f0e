"""The switch of automatic mitigation and an application's sensitivity, on a real server: durable, quick, unnoticed."""

import json
import re
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from running import Api, Server, eventually, free_port, upper_origin

SWITCH_S = 1.0


def delivered(server: Server) -> dict[str, Any]:
    """The newest snapshot that the edge serves and has kept on disk."""
    newest = max((server.folder / "causeway-data/edge").glob("snapshot-*.causeway"))
    found: dict[str, Any] = json.loads(re.sub(rb"^[^{]*", b"", newest.read_bytes()))
    return found


def is_on(server: Server) -> bool:
    return bool(delivered(server)["settings"].get("mitigation", True))


@pytest.mark.alone
def test_off_is_everywhere_within_a_second_and_stays_through_restarts(alone: Callable[..., Server]) -> None:
    server = alone().start()
    api = server.api()
    api.create()
    assert is_on(server)
    for enabled in (False, True, False):
        began_s = time.monotonic()
        told = api.http.put("/api/v1/mitigation", json={"enabled": enabled})
        assert time.monotonic() - began_s < SWITCH_S
        assert told.status_code == 200, told.text
        assert told.json()["result"]["enabled"] is enabled
        assert is_on(server) is enabled, "the answer comes when the edge has it"
        [edge] = told.json()["result"]["edges"]
        assert edge["rules"] == [] and edge["holds"] == []
        assert enabled or edge["is_enabled"] is False
    assert server.stop() == 0
    server.start()
    assert api.http.get("/api/v1/mitigation").json()["result"]["enabled"] is False
    assert not is_on(server)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.log.count(" serves, version") > 2, "another process serves")
    eventually(lambda: server.status_of("/readyz") == 200, "it is ready")
    assert api.http.get("/api/v1/mitigation").json()["result"]["enabled"] is False
    assert not is_on(server)


def test_no_connection_notices_the_switch_or_the_sensitivity(api: Api) -> None:
    with upper_origin() as origin:
        port = free_port()
        made = api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        one = f"{api.apps}/{made['id']}"
        with socket.create_connection(("127.0.0.1", port), timeout=5) as live, live.makefile("rb") as lines:
            for round_, sensitivity in enumerate(("low", "high", "off", "medium", None)):
                changed = api.http.patch(one, json={"x_causeway": {"mitigation": sensitivity}}).json()["result"]
                assert changed.get("x_causeway", {}).get("mitigation") == sensitivity
                assert api.http.put("/api/v1/mitigation", json={"enabled": round_ % 2 == 0}).status_code == 200
                live.sendall(b"still here\n")
                assert lines.readline() == b"STILL HERE\n"
        assert api.http.put("/api/v1/mitigation", json={"enabled": True}).status_code == 200


def test_the_edge_is_told_how_sensitive_an_application_is(alone: Callable[..., Server]) -> None:
    server = alone().start()
    api = server.api()
    low, usual = api.create(x_causeway={"mitigation": "low"}), api.create(protocol=f"tcp/{free_port()}")
    told = {application["id"]: application.get("mitigation") for application in delivered(server)["applications"]}
    assert told == {low["id"]: "low", usual["id"]: None}


def test_a_token_that_may_only_read_cannot_switch(api: Api) -> None:
    token = api.http.post("/api/v1/tokens", json={"name": "reader", "scope": "read"}).json()["result"]
    with api.server.http(token["value"]) as reader:
        assert reader.get("/api/v1/mitigation").json()["result"]["enabled"] is True
        assert reader.get("/api/v1/attacks").json()["result"] == []
        refused = reader.put("/api/v1/mitigation", json={"enabled": False})
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (403, 19004)
        assert reader.get("/api/v1/mitigation").json()["result"]["enabled"] is True
    api.http.delete(f"/api/v1/tokens/{token['id']}")


def test_status_and_explanations_tell_of_mitigation(api: Api) -> None:
    api.create()
    [edge] = api.http.get("/api/v1/status").json()["result"]["edges"]
    assert {"is_enabled", "is_attached", "missing", "rules", "holds", "attacks"} == set(edge["mitigation"])
    [said] = api.http.get("/api/v1/firewall/explain", params={"address": "198.51.100.7"}).json()["result"][
        "applications"
    ]
    assert said["automatic"] == {"rules": [], "hold": None}
