"""What a real server does not do on request: fail half way, answer nonsense, end a stream."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from causeway.cli.apps import _create_all
from causeway.cli.tail import events
from causeway.client import PAGE_SIZE, Client, Refused, Unreachable

Handler = Callable[[httpx.Request], httpx.Response]
ZONE: Any = {"id": "1" * 32, "name": "example.net"}
BODIES: list[Any] = [(ZONE, {"protocol": "udp/53"}), (ZONE, {"protocol": "tcp/53"})]


def client(handler: Handler) -> Client:
    return Client("http://127.0.0.1:1", "token", httpx.MockTransport(handler))


def good(result: object) -> httpx.Response:
    return httpx.Response(200, json={"success": True, "errors": [], "messages": [], "result": result})


def bad(status: int, code: int, message: str) -> httpx.Response:
    errors = [{"code": code, "message": message, "source": {"pointer": "/protocol"}}]
    return httpx.Response(status, json={"success": False, "errors": errors, "messages": [], "result": None})


def dns_server(on_second: Callable[[], httpx.Response], on_delete: Handler) -> tuple[Handler, list[str]]:
    """Accept udp/53, treat tcp/53 and the deletion as told, and keep what was asked."""
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path.rpartition('/')[2]}")
        if request.method == "DELETE":
            return on_delete(request)
        protocol = json.loads(request.content)["protocol"]
        if protocol == "tcp/53":
            return on_second()
        return good({"id": "f" * 32, "protocol": protocol, "dns": {"type": "CNAME", "name": "dns.example.net"}})

    return handler, asked


def test_when_the_second_is_refused_the_first_is_removed_again(capsys: pytest.CaptureFixture[str]) -> None:
    handler, asked = dns_server(lambda: bad(400, 13002, "tcp/53 is taken"), lambda _: good({"id": "f" * 32}))
    with pytest.raises(Refused, match="13002"):
        _create_all(client(handler), BODIES, is_dry_run=False)
    assert asked == ["POST apps", "POST apps", f"DELETE {'f' * 32}"]
    assert "undone: dns.example.net udp/53" in capsys.readouterr().err


def test_when_the_server_is_gone_half_way_the_rest_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def gone(_: httpx.Request | None = None) -> httpx.Response:
        raise httpx.ConnectError("gone")

    handler, _ = dns_server(gone, gone)
    with pytest.raises(Unreachable):
        _create_all(client(handler), BODIES, is_dry_run=False)
    said = capsys.readouterr().err
    assert "left behind" in said
    assert f"causeway apps delete {'f' * 32}" in said


def test_a_dry_run_removes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    handler, asked = dns_server(lambda: bad(400, 13002, "taken"), lambda _: good(None))
    with pytest.raises(Refused):
        _create_all(client(handler), BODIES, is_dry_run=True)
    assert asked == ["POST apps", "POST apps"]


NONSENSE = [
    httpx.Response(200, text="<html>hello"),
    httpx.Response(200, json=[]),
    httpx.Response(502, text=""),
    httpx.Response(200, json={"result": []}),
]


@pytest.mark.parametrize("answer", NONSENSE)
def test_an_answer_that_is_not_ours_is_nobody_there(answer: httpx.Response) -> None:
    with pytest.raises(Unreachable, match="not one of causeway's"):
        client(lambda _: answer).status()


def test_a_refusal_without_a_reason_is_still_a_refusal() -> None:
    answer = httpx.Response(500, json={"success": False, "errors": [], "result": None})
    with pytest.raises(Refused) as caught:
        client(lambda _: answer).status()
    assert [(p.code, p.side) for p in caught.value.problems] == [(0, "edge")]


def test_lists_are_read_to_their_end() -> None:
    pages = {1: [{"id": str(n)} for n in range(PAGE_SIZE)], 2: [{"id": "last"}]}
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(int(request.url.params["page"]))
        return good(pages.get(asked[-1], []))

    assert len(client(handler).zones()) == PAGE_SIZE + 1
    assert asked == [1, 2]


class Lines(httpx.SyncByteStream):
    """Events, then the end of the connection as told."""

    def __init__(self, count: int, *, is_broken: bool) -> None:
        self.count, self.is_broken = count, is_broken

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.count):
            yield json.dumps({"kind": "connect", "seq": number}).encode() + b"\n"
        if self.is_broken:
            raise httpx.ReadError("connection lost")


def tail_server(*answers: httpx.SyncByteStream | httpx.Response | BaseException) -> Handler:
    """Answer status, and each tail with the next of `answers`."""
    left = list(answers)

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/status":
            return good({})
        answer = left.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, stream=answer)

    return handler


def follow(handler: Handler, waits: list[float] | None = None, *, is_following: bool = True) -> Iterator[int]:
    sleep = (lambda _: pytest.fail("waited")) if waits is None else waits.append
    for event in events(client(handler), None, is_following=is_following, sleep=sleep):
        assert event["kind"] != "lost"
        yield event["seq"]


def test_tail_takes_a_lost_connection_up_again_ever_more_slowly() -> None:
    waits: list[float] = []
    down = httpx.ConnectError("down")
    handler = tail_server(
        Lines(2, is_broken=True),
        down,
        bad(503, 10002, "starting"),
        Lines(1, is_broken=False),
        KeyboardInterrupt(),
    )
    with pytest.raises(KeyboardInterrupt):
        list(follow(handler, waits))
    between = [(0.25, 0.5), (0.5, 1), (1, 2), (0.25, 0.5)]  # an event starts the back-off anew
    assert all(low <= wait <= high for wait, (low, high) in zip(waits, between, strict=True)), waits


def test_tail_of_a_quiet_edge_outlives_a_restart() -> None:
    handler = tail_server(Lines(0, is_broken=True), Lines(1, is_broken=False), KeyboardInterrupt())
    waits: list[float] = []
    seen = follow(handler, waits)
    assert next(seen) == 0
    assert len(waits) == 1


def test_tail_does_not_wait_for_a_server_that_was_never_there() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unreachable, match="refused"):
        list(follow(handler))


def test_tail_without_follow_ends_with_the_stream() -> None:
    assert list(follow(tail_server(Lines(3, is_broken=False)), is_following=False)) == [0, 1, 2]


def test_tail_that_may_not_read_says_so() -> None:
    with pytest.raises(Refused, match="10000"):
        list(follow(tail_server(bad(401, 10000, "no"))))
