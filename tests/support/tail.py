"""`/api/v1/tail?follow=true` read as it comes, for more records than an edge keeps."""

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx

from support.edge import Running


class Tail:
    """Every record of one application from now on."""

    def __init__(self, edge: Running, application: str) -> None:
        self.records: list[dict[str, Any]] = []
        self._is_stopping = False
        self._reads = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(edge, application))
        self._thread.start()
        assert self._reads.wait(5), "the tail did not begin"

    def _run(self, edge: Running, application: str) -> None:
        wanted = {"follow": "true", "application": application}
        with (
            edge.client() as http,
            http.stream("GET", "/api/v1/tail", params=wanted, timeout=httpx.Timeout(30)) as tail,
        ):
            for line in tail.iter_lines():
                self._reads.set()
                if self._is_stopping:
                    return
                if line:
                    self.records.append(json.loads(line))

    def of(self, **wanted: object) -> list[dict[str, Any]]:
        found = list(self.records)
        return [record for record in found if all(record.get(name) == value for name, value in wanted.items())]

    def close(self, wake: Callable[[], object]) -> None:
        """`wake` makes one more record, with which it ends."""
        self._is_stopping = True
        wake()
        self._thread.join(20)
        assert not self._thread.is_alive()
