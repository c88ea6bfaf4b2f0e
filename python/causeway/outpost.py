"""The process of an edge whose control is elsewhere: it serves its last good snapshot, whoever else is up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from causeway.edge.agent import Agent
from causeway.model.report import Report
from causeway.serving import Serving
from causeway.settings import Settings
from causeway.supervise.line import Line

if TYPE_CHECKING:
    from causeway.edge.name_server import NameServer
    from causeway.exchange.nats_edge import NatsEdge

_AGAIN_S = 5.0  # between attempts to answer names


class Outpost(Serving):
    """HTTP here is /healthz and /readyz alone: the API is where control runs."""

    def __init__(
        self,
        settings: Settings,
        agent: Agent,
        exchange: NatsEdge,
        line: Line,
        name_server: NameServer | None = None,
    ) -> None:
        super().__init__(settings, agent, line)
        self._exchange, self._name_server = exchange, name_server
        self._why_not: str | None = None  # no changes are taken

    def app(self, stopping: asyncio.Event) -> Any:
        async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return
            status, told = await asyncio.to_thread(self._answer, scope["path"])
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": msgspec.json.encode(told)})

        return answer

    def _answer(self, path: str) -> tuple[int, dict[str, object]]:
        if path == "/healthz":
            return 200, {"status": "alive"}
        if path == "/readyz":
            report = self._agent.observe()
            reason = self._why_not_ready(report)
            told = {"ready": reason is None, "reason": reason, "version": report.version}
            more = {"anycast": report.anycast} if report.anycast else {}
            return 200 if reason is None else 503, {**told, "is_connected": self._exchange.is_connected, **more}
        where = self._exchange.url
        return 404, {"reason": f"this is an edge: the API is where its control runs, which is reached over {where}"}

    def _why_not_ready(self, report: Report) -> str | None:
        if self._why_not or report.is_draining:
            return self._why_not or "the edge is draining"
        missing = self._exchange.refusal or "no snapshot has come from control yet"
        return None if report.version else missing

    async def keep(self) -> None:
        """Agent and exchange have threads of their own."""
        while True:
            await asyncio.sleep(_AGAIN_S if self._name_server else 3600)
            if self._name_server and not self._agent.is_stopping:
                self._name_server.start()

    def take_no_more(self, why: str) -> None:
        self._why_not = why  # and the engine refuses snapshots; control goes on hearing how it drains

    def hand_on(self) -> None:
        if self._name_server:
            self._name_server.stop()
        self._exchange.stop()

    def close(self) -> None:
        self._exchange.stop()

    @property
    def trouble(self) -> str | None:
        return None
