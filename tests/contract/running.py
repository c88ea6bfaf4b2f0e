"""A real server for tests of the outside contract: `causeway.up` with the engine, on loopback, in a folder."""

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from cloudflare import Cloudflare
from support.ports import free_port

START_S = 30
ZONE = "example.net"


def eventually(claim: Callable[[], bool], what: str, within_s: float = START_S) -> None:
    end = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.02)


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


@contextmanager
def upper_origin() -> Iterator[int]:
    """An origin on 127.0.0.1 that shouts back; yields its port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upper) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, host: str = "127.0.0.1") -> bytes:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(b"hello\n")
        with connection.makefile("rb") as lines:
            return lines.readline()


class Server:
    """One `causeway.up`, started, stopped and started again on the same folder."""

    prefix: Sequence[str] = ()  # what runs the program

    def __init__(self, folder: Path, *flags: str, **environment: str) -> None:
        self.folder = folder
        self.flags = flags
        self.environment = environment
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.clients: list[httpx.Client] = []

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    @property
    def token(self) -> str:
        return (self.folder / "causeway-data/token").read_text().strip()

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process and wait for nothing."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CAUSEWAY_", "CLOUDFLARE_"))}
        with (self.folder / "log").open("ab") as log:
            place = ["--api", f"127.0.0.1:{self.port}", "--workers", "1"]
            command = [*self.prefix, sys.executable, "-m", "causeway.up", *place, *self.flags]
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=kept | self.environment, stdout=log, stderr=log
            )
        return self.process

    def start(self, status: int = 200) -> "Server":
        """Start and wait until /readyz answers `status`."""
        process = self.launch()

        def answers() -> bool:
            assert process.poll() is None, self.log
            return self.status_of("/readyz") == status

        eventually(answers, f"/readyz answers {status}: {self.log}")
        return self

    def status_of(self, path: str) -> int | None:
        try:
            return httpx.get(f"{self.url}{path}", trust_env=False, verify=False).status_code
        except httpx.TransportError:
            return None

    @property
    def serving_pid(self) -> int:
        """Of the process that has the engine, the only child of the one that was started."""
        assert self.process
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = START_S) -> int:
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=within_s)

    def http(self, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, verify=False)

    def api(self) -> "Api":
        """An API in a zone that is made for it; `close` ends it."""
        http = self.http()
        self.clients.append(http)
        account = http.get("/client/v4/accounts").json()["result"][0]["id"]
        zone = http.post("/client/v4/zones", json={"name": ZONE, "account": {"id": account}}).json()["result"]
        return Api(self, http, zone["id"])

    def close(self) -> None:
        """End what is left, whatever state it is in."""
        for client in self.clients:
            client.close()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def sdk(self, token: str | None = None, **more: Any) -> Cloudflare:
        """The official client, as its users make it."""
        return Cloudflare(api_token=token or self.token, base_url=f"{self.url}/client/v4", **more)


class Api:
    """Plain HTTP in one zone of a running server."""

    def __init__(self, server: Server, http: httpx.Client, zone_id: str) -> None:
        self.server, self.http, self.zone_id = server, http, zone_id

    @property
    def apps(self) -> str:
        return f"/client/v4/zones/{self.zone_id}/spectrum/apps"

    def body(self, **changes: Any) -> dict[str, Any]:
        """An application that the server takes; a change to None leaves the field out."""
        plain = {
            "protocol": f"tcp/{free_port()}",
            "dns": {"type": "CNAME", "name": f"app.{ZONE}"},
            "origin_direct": ["tcp://192.0.2.10:22"],
        }
        return {name: value for name, value in (plain | changes).items() if value is not None}

    def create(self, *, headers: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        answer = self.http.post(self.apps, json=self.body(**changes), headers=headers)
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        assert isinstance(result, dict)
        return result

    def state(self) -> tuple[Any, Any, Any]:
        """Everything stored and everything that listens: what a refused request must not change."""
        everything = self.http.get(self.apps, params={"page": 1, "per_page": 1000, "order": "app_id"}).json()
        zones = self.http.get("/client/v4/zones", params={"per_page": 1000}).json()["result"]
        listeners = [
            (a["id"], a["protocol"], a["listeners"]) for a in self.http.get("/api/v1/applications").json()["result"]
        ]
        return everything, zones, sorted(listeners)

    def clear(self) -> None:
        for application in self.http.get("/api/v1/applications").json()["result"]:
            gone = self.http.delete(f"/client/v4/zones/{application['zone_id']}/spectrum/apps/{application['id']}")
            assert gone.status_code == 200, gone.text
