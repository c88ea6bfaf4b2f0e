"""Fixtures of the contract tests; what they are made of is in `running`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import ZONE, Api, Server


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave nothing behind; several edge addresses, so that static ones differ."""
    addresses = ("127.0.0.1", "127.0.0.2", "::1")
    flags = [flag for address in addresses for flag in ("--edge-ip", address)]
    server = Server(tmp_path_factory.mktemp("shared"), *flags)
    server.start()
    try:
        yield server
    finally:
        assert server.stop() == 0, server.log


@pytest.fixture
def api(running: Server) -> Iterator[Api]:
    with running.http() as http:
        found = http.get("/client/v4/zones", params={"name": ZONE}).json()["result"]
        if not found:
            account = http.get("/client/v4/accounts").json()["result"][0]["id"]
            found = [http.post("/client/v4/zones", json={"name": ZONE, "account": {"id": account}}).json()["result"]]
        shared = Api(running, http, found[0]["id"])
        shared.clear()
        try:
            yield shared
        finally:
            shared.clear()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Make a server of one's own; it is stopped in the end, whatever state it is in."""
    made: list[Server] = []

    def make(*flags: str, folder: str = ".", **environment: str) -> Server:
        (tmp_path / folder).mkdir(exist_ok=True)
        made.append(Server(tmp_path / folder, *flags, **environment))
        return made[-1]

    yield make
    for server in made:
        server.close()
