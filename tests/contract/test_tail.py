"""Events as they happen: live, kept, filtered, named."""

import json
import threading
from contextlib import suppress
from typing import Any

from running import ZONE, Api, ask, eventually, free_port, upper_origin

FIELDS = {
    "seq", "kind", "time_ms", "application", "application_name", "flow", "protocol", "client", "edge", "origin",
    "connect_time_ms", "client_bytes", "origin_bytes", "client_rtt_ns", "origin_rtt_ns", "status", "cause", "message",
    "ip_firewall", "client_matched_ip_firewall", "trace", "path",
}  # fmt: skip


class Tail:
    """Follow in the background."""

    def __init__(self, api: Api, **query: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.is_listening = threading.Event()
        self._api, self._query = api, {"follow": "true"} | query
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self.is_listening.wait(10)

    def _run(self) -> None:
        with (
            self._api.server.http() as http,
            http.stream("GET", "/api/v1/tail", params=self._query, timeout=30) as answer,
        ):
            for line in answer.iter_lines():
                self.is_listening.set()
                if line:
                    self.events.append(json.loads(line))
                if self._is_over:
                    return

    def end(self, port: int) -> None:
        self._is_over = True
        ask(port)  # something to wake up for
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()


def test_a_connection_shows_within_a_second_with_the_name_of_its_application(api: Api) -> None:
    with upper_origin() as origin:
        ports = [free_port(), free_port()]
        made = [
            api.create(
                protocol=f"tcp/{port}",
                origin_direct=[f"tcp://127.0.0.1:{origin}"],
                dns={"type": "CNAME", "name": f"tail{n}.{ZONE}"},
                x_causeway=None if n else {"name": "named"},
            )
            for n, port in enumerate(ports)
        ]
        everything, one = Tail(api), Tail(api, application=made[0]["id"])
        for port in ports:
            ask(port)
        eventually(lambda: len(everything.events) >= 4, "four events", within_s=5)
        eventually(lambda: len(one.events) >= 2, "two events", within_s=5)
        assert {event["application"] for event in one.events} == {made[0]["id"]}
        assert {event["application_name"] for event in everything.events} == {"named", f"tail1.{ZONE}"}
        assert all(set(event) == FIELDS for event in everything.events)
        assert sorted(event["kind"] for event in one.events[:2]) == ["connect", "disconnect"]
        [closed] = [event for event in one.events if event["kind"] == "disconnect"]
        assert (closed["status"], closed["client_bytes"], closed["origin_bytes"]) == (200, 6, 6)
        assert (closed["trace"], closed["path"]) == (None, None), "it cannot go over other edges"
        everything.end(ports[0])
        one.end(ports[0])


def test_what_is_kept_is_answered_and_the_stream_ends(api: Api) -> None:
    with upper_origin() as origin:
        port, dead = free_port(), free_port()
        good = api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"])
        bad = api.create(protocol=f"tcp/{free_port()}", origin_direct=[f"tcp://127.0.0.1:{dead}"])
        ask(port)
        with suppress(ConnectionResetError):
            ask(int(bad["protocol"].partition("/")[2]))

        def kept() -> list[dict[str, Any]]:
            query = {"application": f"{good['id']},{bad['id']}"}
            lines = api.http.get("/api/v1/tail", params=query).text.splitlines()
            return [json.loads(line) for line in lines]

        eventually(lambda: len(kept()) >= 3, "both applications")
        [failed] = [event for event in kept() if event["kind"] == "originError"]
        assert failed["application"] == bad["id"]
        assert f"127.0.0.1:{dead}" in failed["message"]
