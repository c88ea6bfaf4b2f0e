"""An engine in memory, for tests of what control does when the real one says no; that one is in the contract tests."""

import json
from typing import Any

from causeway.edge.agent import Agent
from causeway.exchange.local import LocalExchange
from causeway.native import NativeError

TOTALS = {"connections_total": 0, "connections_open": 0}


def native_error(code: str, message: str) -> NativeError:
    error = NativeError(message)
    error.code, error.side, error.message = code, "edge", message
    return error


class MemoryEngine:
    """Keeps what it was told; `busy` ports cannot be listened on, `fails_with` refuses every snapshot."""

    def __init__(self) -> None:
        self.snapshot: dict[str, Any] = {"version": 0, "applications": []}
        self.busy: set[int] = set()
        self.fails_with: str | None = None
        self.applied: list[int] = []
        self.events: list[dict[str, Any]] = []
        self.is_draining = False
        self.plan = b"{}"

    def apply(self, snapshot: bytes) -> bytes:
        offered = json.loads(snapshot)
        if self.fails_with:
            raise native_error(self.fails_with, "told to fail")
        if offered["version"] < self.snapshot["version"]:
            raise native_error("snapshot_stale", f"{offered['version']} is older than {self.snapshot['version']}")
        self.snapshot = offered
        self.applied.append(offered["version"])
        report = {"version": offered["version"], "outcome": "applied", "listeners": self._listeners()}
        return json.dumps(report).encode()

    def _listeners(self) -> list[dict[str, Any]]:
        return [
            {
                "application": application["id"],
                "protocol": application["protocol"],
                "address": address,
                "ports": application["edge_ports"],
                "state": "refused" if is_busy else "running",
                "reason": {"code": "port_in_use", "side": "operator", "message": "in use"} if is_busy else None,
            }
            for application in self.snapshot["applications"]
            for address in application["edge_addresses"]
            for is_busy in [application["edge_ports"]["first"] in self.busy]
        ]

    def skip_events(self, keep: int) -> int:
        skipped = max(0, len(self.events) - keep)
        del self.events[:skipped]
        return skipped

    def observe(self, max_events: int) -> bytes:
        events, self.events = self.events[:max_events], self.events[max_events:]
        return json.dumps(
            {
                "version": self.snapshot["version"],
                "is_draining": self.is_draining,
                "uptime_ms": 1,
                "workers": 1,
                "open_files": {"used": 1, "limit": 2},
                "totals": TOTALS,
                "applications": [{"id": a["id"], **TOTALS} for a in self.snapshot["applications"]],
                "refused": [found for found in self._listeners() if found["state"] == "refused"],
                "events": events,
                "events_lost": 0,
                "rejected_snapshots": [],
            }
        ).encode()

    def guard_look(self, max_samples: int) -> bytes:
        return b'{"at_ms":1,"is_attached":false}'

    def mitigate(self, plan: bytes) -> bytes:
        self.plan = plan
        return b'{"is_attached":true}'

    def mitigation(self) -> bytes:
        return self.plan

    def drain(self, deadline_ms: int) -> int:
        self.is_draining = True
        return 0

    @property
    def served(self) -> list[str]:
        return sorted(application["id"] for application in self.snapshot["applications"])


def on_exchange(engine: MemoryEngine) -> tuple[LocalExchange, Agent]:
    """The engine with its agent; the agent's own thread is not started."""
    exchange = LocalExchange()
    agent = Agent(engine, exchange)
    exchange.attach(agent)
    agent.observe()
    return exchange, agent
