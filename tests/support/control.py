"""Several `causeway control` over one PostgreSQL, and what they have ever left for edges."""

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import nats
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig, StorageType

from causeway.exchange import words
from support.edge import CAUSEWAY, Running
from support.patience import eventually
from support.program import Program, Programs

LEADS_S = 12.0  # the lease is 5 s, a look takes one more, and this machine may be busy
TOKEN = "t" * 43


class ControlNode(Running):
    """One `causeway control`; `signal_all` is for what befalls a whole machine."""

    def __init__(
        self, programs: Programs, data_dir: Path, name: str, database: str | None, exchange: str, *flags: str
    ) -> None:
        shared = ("--database", database, "--node", name) if database else ()
        super().__init__(
            programs, data_dir, "--exchange", exchange, "--allow-loopback-origins", "--rollout-bake-s", "0.5", *shared,
            *flags,
        )  # fmt: skip
        self.name = name
        self.environment = {"CAUSEWAY_API_TOKEN": TOKEN}

    def launch(self) -> Program:
        self.program = self._programs.start(
            CAUSEWAY, "control", "--data-dir", self.data_dir, "--api", f"127.0.0.1:{self.api_port}", *self.flags,
            extra_environment=self.environment,
        )  # fmt: skip
        return self.program

    @property
    def token(self) -> str:
        return TOKEN

    def control(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status()["control"]
        return found

    @property
    def leads(self) -> bool:
        return bool(self.control()["leads"])

    def await_lead(self) -> int:
        """Its term."""
        eventually(lambda: self.leads, LEADS_S)
        return int(self.control()["term"])

    def signal_all(self, number: signal.Signals) -> None:
        assert self.program
        for pid in (self.program.pid, *self.children):
            os.kill(pid, number)


class Put(NamedTuple):
    edge: str
    term: int
    version: int


class History:
    """All snapshots that the exchange has ever taken, in its order. What it refuses is heard too, but not from it."""

    def __init__(self, url: str) -> None:
        self._url, self.puts, self.said = url, list[Put](), threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._listen(),))

    def __enter__(self) -> "History":
        self._thread.start()
        assert self.said.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._over = asyncio.Event()
        client = await nats.connect(self._url)
        jetstream = client.jetstream()
        await jetstream.create_key_value(KeyValueConfig(words.SNAPSHOTS, storage=StorageType.FILE, direct=True))
        await jetstream.subscribe(f"$KV.{words.SNAPSHOTS}.>", cb=self._on_put, ordered_consumer=True)
        self.said.set()
        await self._over.wait()
        await client.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # the library leaves some behind
            task.cancel()

    async def _on_put(self, message: Msg) -> None:
        if message.data:
            snapshot = msgspec.json.decode(words.unpack(message.data, 1 << 28))
            edge = message.subject.rpartition(".")[2]
            self.puts.append(Put(edge, words.term_of(message.headers), snapshot["version"]))

    def of(self, edge: str) -> list[tuple[int, int]]:
        return [(put.term, put.version) for put in self.puts if put.edge == edge]

    def check(self, *edges: str) -> None:
        """What makes no conflict: each of a later term, or of a later version in the same term."""
        for edge in edges:
            found = self.of(edge)
            assert found, f"nothing was ever left for {edge}"
            assert all(before < after for before, after in itertools.pairwise(found)), (edge, found)


Start = Callable[..., ControlNode]
