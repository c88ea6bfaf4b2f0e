"""The engine without anything around it, in a process of its own that can be killed, and a snapshot to give it."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from support.namespaces import Namespace
from support.program import environment

_SERVER = Path(__file__).with_name("engine_server.py")


def application(number: int, protocol: str, edge: list[str], port: int, origin: str, to: int, **more: Any) -> Any:
    """As the engine reads it; its id ends with `number`."""
    return {
        "id": f"{number:032x}", "name": f"app-{number}", "protocol": protocol, "edge_addresses": edge,
        "edge_ports": {"first": port, "last": port},
        "origins": {"kind": "addresses", "addresses": [{"address": origin, "ports": {"first": to, "last": to}}]},
        "proxy_protocol": "off", "udp_header": "first", "proxy_protocol_from": [], "proxy_header_timeout_ms": 5000,
        "connect_timeout_ms": 3000, "idle_timeout_ms": 0, "half_close_timeout_ms": 60000, "no_progress_timeout_ms": 0,
        "udp_idle_timeout_ms": 60000, "on_delete": "drain", "drain_ms": 1000, **more,
    }  # fmt: skip


class BareEngine:
    def __init__(self, state_dir: Path, inside: Namespace | None = None, **config: Any) -> None:
        self.state_dir, self.inside = state_dir, inside
        self.config = {"workers": 1, "state_dir": str(state_dir), **config}
        self.took_ms = 0.0
        self._version = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self, **config: Any) -> "BareEngine":
        with self.inside or nullcontext():
            self._process = subprocess.Popen(
                [sys.executable, _SERVER, json.dumps({**self.config, **config})],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout
        assert self._process.stdout.readline() == "serving\n"
        return self

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def call(self, name: str, *arguments: Any) -> Any:
        """What the engine answers; `took_ms` tells how long it took."""
        assert self._process and self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        self.took_ms = told["took_ms"]
        assert "error" not in told, told["error"]
        return told["answer"]

    def apply(self, *applications: Any) -> Any:
        self._version += 1
        settings = {"origin_deny": [], "origin_deny_sockets": [], "allow_loopback_origins": False, "resolvers": []}
        snapshot = {"format": 1, "version": self._version, "settings": settings, "applications": list(applications)}
        return self.call("apply", snapshot)

    def mitigate(self, **plan: Any) -> Any:
        return self.call("mitigate", plan)

    def look(self, max_samples: int = 1000) -> Any:
        return self.call("guard_look", max_samples)

    def kill(self) -> None:
        """SIGKILL: what is in the kernel is all that is left."""
        assert self._process
        self._process.kill()
        self._process.communicate()  # and closes its pipes

    def end(self) -> None:
        """End it, and take out of the kernel what it left there."""
        if self._process and self._process.poll() is None:
            self.kill()
        flush = f"from causeway._core import flush; flush({str(self.state_dir)!r})"
        with self.inside or nullcontext():
            subprocess.run([sys.executable, "-c", flush], check=True, env=environment())
