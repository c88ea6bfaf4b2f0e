"""The HTTP API as typed Python: one method per request, one exception per way to fail.

Knows URLs, the envelope and timeouts. Refuses to know terminals, flags or files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar, cast
from urllib.parse import quote, urljoin, urlsplit

import httpx

from causeway.answers import (
    Account,
    Application,
    ApplicationStatus,
    Attack,
    AttackTurn,
    Event,
    Explanation,
    FirewallList,
    FirewallRule,
    GeoDatabase,
    Lost,
    Mitigation,
    NamesTold,
    PopStatus,
    Rollout,
    Route,
    RouteGain,
    Status,
    Token,
    Zone,
    ZoneSetting,
)

DEFAULT_URL = "http://127.0.0.1:8787"
REQUEST_TIMEOUT_S = 30.0  # a change answers once it is durable and serving, so it may wait for the edge
TAIL_SILENCE_S = 60.0
PAGE_SIZE = 500
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Problem:
    """One item of an answer's `errors`."""

    code: int
    message: str
    side: str
    pointer: str | None = None
    documentation_url: str | None = None


class ClientError(Exception):
    """A request that brought no result."""


class Refused(ClientError):
    """The server understood and said no."""

    def __init__(self, status: int, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{p.code} ({p.side}): {p.message}" for p in problems))
        self.status = status
        self.problems = problems


class Unreachable(ClientError):
    """Nobody answered, or something that is not causeway did."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason


class Client:
    """Speak to one causeway server. Use it as a context manager, or call `close`."""

    def __init__(
        self, url: str = DEFAULT_URL, token: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=REQUEST_TIMEOUT_S,
            transport=transport,
            trust_env=not is_loopback(url),  # HTTP_PROXY is not meant for this machine
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def accounts(self) -> list[Account]:
        return self._pages("/client/v4/accounts", Account)

    def verify_token(self) -> dict[str, object]:
        return cast("dict[str, object]", self._request("GET", "/client/v4/user/tokens/verify"))

    def zones(self) -> list[Zone]:
        return self._pages("/client/v4/zones", Zone)

    def create_zone(self, name: str, account_id: str) -> Zone:
        body = {"name": name, "account": {"id": account_id}}
        return cast(Zone, self._request("POST", "/client/v4/zones", body=body))

    def smart_routing(self, zone_id: str) -> ZoneSetting:
        return cast(ZoneSetting, self._request("GET", f"/client/v4/zones/{zone_id}/argo/smart_routing"))

    def set_smart_routing(self, zone_id: str, *, is_on: bool) -> ZoneSetting:
        body = {"value": "on" if is_on else "off"}
        return cast(ZoneSetting, self._request("PATCH", f"/client/v4/zones/{zone_id}/argo/smart_routing", body=body))

    def delete_zone(self, zone_id: str) -> None:
        self._request("DELETE", f"/client/v4/zones/{zone_id}")

    def applications(self, zone_id: str) -> list[Application]:
        return self._pages(_apps(zone_id), Application)

    def application(self, zone_id: str, application_id: str) -> Application:
        return cast(Application, self._request("GET", _apps(zone_id, application_id)))

    def create_application(self, zone_id: str, body: Mapping[str, object], *, is_dry_run: bool = False) -> Application:
        return cast(Application, self._request("POST", _apps(zone_id), body=body, params=_dry_run(is_dry_run)))

    def replace_application(
        self,
        zone_id: str,
        application_id: str,
        body: Mapping[str, object],
        *,
        is_dry_run: bool = False,
        is_now: bool = False,
    ) -> Application:
        path, params = _apps(zone_id, application_id), {**(_dry_run(is_dry_run) or {}), **_now(is_now)}
        return cast(Application, self._request("PUT", path, body=body, params=params))

    def delete_application(self, zone_id: str, application_id: str, *, is_now: bool = False) -> None:
        self._request("DELETE", _apps(zone_id, application_id), params=_now(is_now))

    def status(self) -> Status:
        return cast(Status, self._request("GET", "/api/v1/status"))

    def application_status(self) -> list[ApplicationStatus]:
        return cast("list[ApplicationStatus]", self._request("GET", "/api/v1/applications"))

    def tokens(self) -> list[Token]:
        return cast("list[Token]", self._request("GET", "/api/v1/tokens"))

    def create_token(self, name: str, scope: str) -> Token:
        return cast(Token, self._request("POST", "/api/v1/tokens", body={"name": name, "scope": scope}))

    def revoke_token(self, token_id: str) -> None:
        self._request("DELETE", f"/api/v1/tokens/{token_id}")

    def firewall_rules(self) -> list[FirewallRule]:
        return self._pages("/api/v1/firewall/rules", FirewallRule)

    def create_firewall_rule(self, body: Mapping[str, object]) -> FirewallRule:
        return cast(FirewallRule, self._request("POST", "/api/v1/firewall/rules", body=body))

    def delete_firewall_rule(self, rule_id: str) -> None:
        self._request("DELETE", f"/api/v1/firewall/rules/{rule_id}")

    def put_firewall_list(self, name: str, content: bytes, query: Mapping[str, str]) -> FirewallList:
        path = f"/api/v1/firewall/lists/{quote(name, safe='')}"
        return cast(FirewallList, self._request("PUT", path, content=content, params=query))

    def put_firewall_database(self, target: str, name: str, content: bytes) -> GeoDatabase:
        path = f"/api/v1/firewall/databases/{target}"
        return cast(GeoDatabase, self._request("PUT", path, content=content, params={"name": name}))

    def explain_address(self, address: str) -> Explanation:
        return cast(Explanation, self._request("GET", "/api/v1/firewall/explain", params={"address": address}))

    def mitigation(self) -> Mitigation:
        return cast(Mitigation, self._request("GET", "/api/v1/mitigation"))

    def drain_edge(self, name: str, *, is_drained: bool, is_forced: bool = False) -> None:
        params = {"force": "true"} if is_forced else None
        self._request("PUT", f"/api/v1/edges/{quote(name, safe='')}", body={"drained": is_drained}, params=params)

    def pops(self) -> list[PopStatus]:
        return cast("list[PopStatus]", self._request("GET", "/api/v1/pops"))

    def drain_pop(self, name: str, *, is_drained: bool, is_forced: bool = False) -> list[str]:
        """Answers the edges that it was said to."""
        params = {"force": "true"} if is_forced else None
        body = {"drained": is_drained}
        answered = self._request("PUT", f"/api/v1/pops/{quote(name, safe='')}", body=body, params=params)
        return cast("dict[str, list[str]]", answered)["edges"]

    def rollouts(self) -> list[Rollout]:
        """The newest first."""
        return cast("list[Rollout]", self._request("GET", "/api/v1/rollouts"))

    def rollout(self, number: int) -> Rollout:
        return cast(Rollout, self._request("GET", f"/api/v1/rollouts/{number}"))

    def resume_rollout(self, number: int) -> Rollout:
        return cast(Rollout, self._request("POST", f"/api/v1/rollouts/{number}/resume"))

    def roll_back(self, number: int) -> list[str]:
        """The applications that are what they were."""
        told = self._request("POST", f"/api/v1/rollouts/{number}/rollback")
        return cast("dict[str, list[str]]", told)["applications"]

    def push_rollouts(self, number: int | None = None) -> list[str]:
        """The applications that edges get at once; without a number all but those of halted rollouts."""
        path = "/api/v1/rollouts/push" if number is None else f"/api/v1/rollouts/{number}/push"
        return cast("dict[str, list[str]]", self._request("POST", path))["applications"]

    def gains(self) -> list[RouteGain]:
        return cast("list[RouteGain]", self._request("GET", "/api/v1/routes/gains"))

    def routes(self) -> list[Route]:
        return cast("list[Route]", self._request("GET", "/api/v1/routes"))

    def names(self) -> NamesTold:
        return cast(NamesTold, self._request("GET", "/api/v1/names"))

    def invite_edge(self, name: str) -> dict[str, str]:
        """What lets that edge in, once: a secret."""
        return cast(dict[str, str], self._request("POST", f"/api/v1/edges/{quote(name, safe='')}/invitation"))

    def revoke_edge(self, name: str) -> bool:
        """Whether nats-server has heard of it."""
        told = self._request("DELETE", f"/api/v1/edges/{quote(name, safe='')}")
        return bool(cast(dict[str, object], told)["is_in_force"])

    def switch_mitigation(self, *, is_on: bool) -> Mitigation:
        return cast(Mitigation, self._request("PUT", "/api/v1/mitigation", body={"enabled": is_on}))

    def attacks(self, query: Mapping[str, str], most: int) -> list[Attack]:
        """The newest that the query is about."""
        params = {**query, "page": "1", "per_page": str(most)}
        return cast("list[Attack]", self._request("GET", "/api/v1/attacks", params=params))

    def attack(self, attack_id: str) -> Attack:
        return cast(Attack, self._request("GET", f"/api/v1/attacks/{attack_id}"))

    def tail(
        self, application_id: str | None = None, *, is_following: bool = True
    ) -> Iterator[Event | AttackTurn | Lost]:
        """Yield events as the edge reports them; ends when the server ends the stream."""
        params = {"follow": "true" if is_following else "false"}
        if application_id:
            params["application"] = application_id
        try:
            with self._http.stream("GET", "/api/v1/tail", params=params, timeout=_tail_timeout()) as answer:
                if answer.status_code != 200:
                    answer.read()
                    self._result(answer)
                for line in answer.iter_lines():
                    if line.strip():
                        yield cast("Event | AttackTurn | Lost", json.loads(line))
        except httpx.HTTPError as error:
            raise Unreachable(self.url, _reason(error)) from error
        except ValueError as error:
            raise Unreachable(self.url, "the event stream holds a line that is not JSON") from error

    def _pages(self, path: str, _: type[Result]) -> list[Result]:
        found: list[Result] = []
        page = 1
        while items := cast(
            "list[Result]", self._request("GET", path, params={"page": str(page), "per_page": str(PAGE_SIZE)})
        ):
            found += items
            if len(items) < PAGE_SIZE:
                break
            page += 1
        return found

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
    ) -> object:
        try:
            answer = self._http.request(method, path, json=body, content=content, params=params)
        except httpx.HTTPError as error:
            raise Unreachable(self.url, _reason(error)) from error
        return self._result(answer)

    def _result(self, answer: httpx.Response) -> object:
        try:
            envelope = answer.json()
        except ValueError:
            envelope = None
        if not isinstance(envelope, dict) or "success" not in envelope:
            raise Unreachable(self.url, f"the answer (HTTP {answer.status_code}) is not one of causeway's")
        if envelope["success"] and answer.is_success:
            return envelope.get("result")
        raise Refused(answer.status_code, _problems(self.url, answer.status_code, envelope.get("errors")))


def is_loopback(url: str) -> bool:
    return (urlsplit(url).hostname or "") in LOOPBACK_HOSTS


def _apps(zone_id: str, application_id: str | None = None) -> str:
    path = f"/client/v4/zones/{zone_id}/spectrum/apps"
    return f"{path}/{application_id}" if application_id else path


def _dry_run(is_dry_run: bool) -> dict[str, str] | None:
    return {"dry_run": "true"} if is_dry_run else None


def _now(is_now: bool) -> dict[str, str]:
    return {"now": "true"} if is_now else {}


def _tail_timeout() -> httpx.Timeout:
    # A quiet edge sends an empty line every 15 s; several missing ones mean that nobody is there.
    return httpx.Timeout(REQUEST_TIMEOUT_S, read=TAIL_SILENCE_S)


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the server closed the connection"
    return str(error) or type(error).__name__


def _problems(url: str, status: int, items: object) -> tuple[Problem, ...]:
    side = "operator" if status < 500 else "edge"
    found = tuple(
        Problem(
            code=int(item.get("code", 0)),
            message=str(item.get("message", "")),
            side=str(item.get("side") or side),
            pointer=(item.get("source") or {}).get("pointer"),
            documentation_url=urljoin(url, item["documentation_url"]) if item.get("documentation_url") else None,
        )
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict)
    )
    return found or (Problem(0, f"HTTP {status} without an explanation", side),)
