"""Fetch, check, apply, observe, report: the loop around the engine of this node."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from causeway.exchange.local import EdgeRefused, LocalExchange
from causeway.model.report import ApplyReport, Report, decode_apply_report, decode_report
from causeway.native import Edge, NativeError

log = logging.getLogger(__name__)

_EVENTS_PER_LOOK = 20_000
_LOOK_S, _LIVE_LOOK_S = 1.0, 0.1  # nobody watches, somebody does
_RETRY_S = 5.0  # a port that was taken may be free by then


class EngineFailed(Exception):
    """The engine could not start; the message says why."""


class Engine(Protocol):
    """What the agent needs of the compiled engine."""

    def apply(self, snapshot: bytes) -> bytes: ...
    def observe(self, max_events: int) -> bytes: ...
    def drain(self, deadline_ms: int) -> int: ...


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    state_dir: Path
    workers: int = 0


def start_engine(config: EdgeConfig) -> Edge:
    """Start the engine, which serves its last good snapshot at once.

    Raises:
        EngineFailed: threads or descriptors could not be had.
    """
    try:
        return Edge.start(msgspec.json.encode({"workers": config.workers, "state_dir": str(config.state_dir)}))
    except NativeError as error:
        raise EngineFailed(f"the edge could not start: {error.message}") from error


class Agent:
    def __init__(self, engine: Engine, exchange: LocalExchange) -> None:
        self._engine = engine
        self._exchange = exchange
        self._snapshot: bytes | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="edge-agent", daemon=True)

    def start(self) -> None:
        """Report once, then keep reporting."""
        report = self.observe()
        for reason in report.rejected_snapshots:
            log.error("a snapshot on disk was not taken: %s", reason)
        self._exchange.attach(self.apply, self._wake.set)
        self._thread.start()

    def apply(self, snapshot: bytes) -> ApplyReport:
        """Have the engine do what the snapshot says.

        Raises:
            EdgeRefused: nothing was changed.
        """
        try:
            with self._lock:
                report = decode_apply_report(self._engine.apply(snapshot))
                self._snapshot = snapshot
        except NativeError as error:
            raise EdgeRefused(error.code, error.message) from error
        if report.not_kept:
            log.error("snapshot %d serves, but a restart would not find it: %s", report.version, report.not_kept)
        self._wake.set()
        return report

    def observe(self) -> Report:
        """Take what the engine has seen and publish it."""
        report = decode_report(self._engine.observe(_EVENTS_PER_LOOK))
        self._exchange.publish(report)
        return report

    def stop(self, drain_s: float) -> int:
        """Close the ports, let flows end for `drain_s`, answer how many had to be cut."""
        self._is_stopping = True  # no more retries of ports; reports go on to the end
        cut = self._engine.drain(int(drain_s * 1000))
        self.observe()
        return cut

    def _run(self) -> None:
        since_retry_s = 0.0
        while True:
            wait_s = _LIVE_LOOK_S if self._exchange.has_readers else _LOOK_S
            if self._wake.wait(wait_s):
                self._wake.clear()
            since_retry_s += wait_s
            try:
                report = self.observe()
                while len(report.events) >= _EVENTS_PER_LOOK:
                    report = self.observe()
                if report.refused and since_retry_s >= _RETRY_S and not self._is_stopping:
                    since_retry_s = 0.0
                    self._retry()
            except Exception:
                log.exception("the edge could not be observed; it goes on serving")

    def _retry(self) -> None:
        """Ask again for ports that could not be had."""
        with self._lock:
            if self._snapshot is None:
                return
            try:
                report = decode_apply_report(self._engine.apply(self._snapshot))
            except NativeError as error:
                log.error("applying the running snapshot again was refused: %s", error.message)
                return
        for listener in report.listeners:
            if listener.state == "running":
                log.info("%s/%d on %s could be had now", listener.protocol, listener.ports.first, listener.address)
