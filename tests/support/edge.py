"""`causeway up` as a user starts it, with a data directory of its own, and its API as plain HTTP."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.namespaces import Namespace
from support.patience import eventually
from support.ports import free_port
from support.program import Program, Programs

CAUSEWAY = Path(sys.executable).with_name("causeway")
ZONE = "example.net"
START_S = 20.0  # of this whole machine, which may be busy with other tests; what a start may take is test_crash's


def capability(name: str) -> dict[str, Any]:
    """What `causeway doctor` says of one capability of this machine: `available` and, in words, `detail`."""
    doctor = subprocess.run([CAUSEWAY, "doctor", "-o", "json"], capture_output=True, text=True, check=False)
    found: dict[str, Any] = next(answer for answer in json.loads(doctor.stdout) if answer["name"] == name)
    return found


def need_guard() -> None:
    """Skip the test where this machine cannot, with its reason."""
    if not (told := capability("guard"))["available"]:
        pytest.skip(f"the guard cannot be tested here: {told['detail']}")


class Running:
    """One `causeway up`: started, stopped, killed and started again on the same data."""

    def __init__(
        self,
        programs: Programs,
        data_dir: Path,
        *flags: str,
        inside: Namespace | None = None,
        under: Sequence[str] = (),
    ) -> None:
        self.data_dir, self.flags, self.inside = data_dir, flags, inside
        self.under = tuple(under)  # a command that becomes the program, such as prlimit
        self.api_port = free_port()
        self.url = f"http://127.0.0.1:{self.api_port}"
        self.environment: Mapping[str, str] = {}
        self._programs = programs
        self.program: Program | None = None

    def launch(self) -> Program:
        """Start the process and wait for nothing."""
        self.program = self._programs.start(
            *self.under, CAUSEWAY, "up", "--data-dir", self.data_dir, "--api", f"127.0.0.1:{self.api_port}",
            *self.flags, inside=self.inside, extra_environment=self.environment,
        )  # fmt: skip
        return self.program

    def start(self, ready: int = 200) -> "Running":
        """Start, and wait until /readyz answers `ready`."""
        program = self.launch()

        def answers() -> bool:
            assert self.readiness().status_code == ready
            return True

        def answers_or_ended() -> bool:
            return not program.is_running or answers()

        eventually(answers_or_ended, START_S)
        assert program.is_running, f"causeway up ended with {program.process.returncode}: {program.output}"
        return self

    def stop(self, within_s: float = 10.0) -> int:
        """SIGTERM; answers the exit status."""
        assert self.program
        return self.program.stop(within_s=within_s)

    def kill(self) -> None:
        assert self.program
        self.program.stop(signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL to all of its processes at once: what is in the kernel and on disk is all that is left."""
        assert self.program
        if self.program.is_running:
            for pid in (self.program.pid, *self.children):
                os.kill(pid, signal.SIGKILL)
        self.program.wait()

    def close(self) -> None:
        """Let go of what this test holds; the process is its starter's to end."""
        if "http" in self.__dict__:
            self.http.close()

    def restart(self) -> "Running":
        self.stop()
        return self.start()

    @property
    def output(self) -> str:
        return self.program.output if self.program else ""

    @property
    def children(self) -> list[int]:
        """The serving process and those that drain, in the order in which they were started."""
        assert self.program
        return [
            int(pid) for pid in Path(f"/proc/{self.program.pid}/task/{self.program.pid}/children").read_text().split()
        ]

    @property
    def serving_pid(self) -> int:
        """The process that has the ports, not its supervisor."""
        told = [line for line in self.output.splitlines() if " serves, version " in line]
        return int(told[-1].split("process ")[1].split()[0])

    @property
    def rss_bytes(self) -> int:
        """Memory of the serving process that is in RAM."""
        status = Path(f"/proc/{self.serving_pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    @property
    def token(self) -> str:
        return (self.data_dir / "token").read_text().strip()

    @cached_property
    def http(self) -> httpx.Client:
        return self.client()

    def client(self, token: str | None = None) -> httpx.Client:
        transport = _Transport(self.inside)
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, transport=transport, timeout=30, trust_env=False)

    def readiness(self) -> httpx.Response:
        with httpx.Client(base_url=self.url, transport=_Transport(self.inside), trust_env=False) as http:
            return http.get("/readyz")

    def result(self, method: str, path: str, body: object = None) -> Any:
        """The `result` of a request that must succeed."""
        answer = self.http.request(method, path, json=body)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()["result"]

    @cached_property
    def applications(self) -> str:
        """The path of this edge's applications, in its one zone."""
        zones = self.result("GET", f"/client/v4/zones?name={ZONE}")
        if not zones:
            account = self.result("GET", "/client/v4/accounts")[0]["id"]
            zones = [self.result("POST", "/client/v4/zones", {"name": ZONE, "account": {"id": account}})]
        return f"/client/v4/zones/{zones[0]['id']}/spectrum/apps"

    def create_application(self, protocol: str, *origins: str, **fields: object) -> str:
        """Make an application for the origins and answer its id; it serves when this returns."""
        name = f"app-{protocol.replace('/', '-')}.{ZONE}"
        body: Mapping[str, object] = {"protocol": protocol, "dns": {"type": "CNAME", "name": name}}
        direct = {"origin_direct": list(origins)} if origins else {}
        return str(self.result("POST", self.applications, {**body, **direct, **fields})["id"])

    def delete_application(self, application_id: str) -> None:
        self.result("DELETE", f"{self.applications}/{application_id}")

    def status(self) -> dict[str, Any]:
        found = self.result("GET", "/api/v1/status")
        assert isinstance(found, dict)
        return found

    def counters(self, application_id: str) -> dict[str, int]:
        return next(a["counters"] for a in self.result("GET", "/api/v1/applications") if a["id"] == application_id)

    def events(self, application_id: str) -> list[dict[str, Any]]:
        """What the flow log has of an application; the edge is read once a second."""
        answer = self.http.get("/api/v1/tail", params={"application": application_id})
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines() if line]

    def event(self, application_id: str, **wanted: object) -> dict[str, Any]:
        """The first event with these values, once it is there."""

        def look() -> dict[str, Any]:
            found = self.events(application_id)
            fitting = [event for event in found if all(event.get(name) == value for name, value in wanted.items())]
            assert fitting, found
            return fitting[0]

        return eventually(look, 5.0, every_s=0.1)


class _Transport(httpx.HTTPTransport):
    """Connections are made inside a namespace."""

    def __init__(self, inside: Namespace | None) -> None:
        super().__init__()
        self._inside = inside

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._inside or nullcontext():
            return super().handle_request(request)
