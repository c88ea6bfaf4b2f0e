"""An edge without control of its own: `causeway edge`, on an address of this machine."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx

from support.edge import CAUSEWAY
from support.patience import eventually
from support.ports import free_port
from support.program import Program, Programs


class Outpost:
    """Started, stopped, killed and started again on the same data."""

    def __init__(self, programs: Programs, data_dir: Path, join: str, name: str, address: str, *flags: str) -> None:
        """`join`: a URL, or the file of an invitation."""
        self._programs, self.data_dir = programs, data_dir
        self.join, self.name, self.address, self._flags = join, name, address, flags
        self.health_port = free_port()
        self.program: Program | None = None

    def start(self, ready: int | None = 200) -> "Outpost":
        """Wait until /readyz answers `ready`; None: wait for nothing."""
        named = ("--name", self.name) if "://" in self.join else ()
        self.program = self._programs.start(
            CAUSEWAY, "edge", "--data-dir", self.data_dir, "--api", f"127.0.0.1:{self.health_port}", "--join",
            self.join, *named, "--edge-ip", self.address, "--workers", "1", *self._flags,
        )  # fmt: skip
        if ready is not None:
            self.await_readiness(ready)
        return self

    def await_readiness(self, status: int) -> None:
        eventually(lambda: self.readiness().status_code == status, 30)

    @property
    def output(self) -> str:
        return self.program.output if self.program else ""

    def readiness(self) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.health_port}/readyz", trust_env=False)

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.readiness().text)
        return found

    def stop(self) -> int:
        assert self.program
        return self.program.stop()

    def kill(self) -> None:
        assert self.program
        self.program.stop(signal.SIGKILL)

    def forget(self) -> None:
        """Its disk is lost."""
        shutil.rmtree(self.data_dir)

    def upgrade(self) -> None:
        """Another process takes over, as with SIGHUP."""
        assert self.program
        self.program.send(signal.SIGHUP)
