"""10002 by a disk that is really full: refused, unchanged, serving, and fine again once there is room."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from running import Server, ask, free_port, upper_origin

MOUNT = 'mount -t tmpfs -o size=500k,mode=0700 tmpfs causeway-data && exec "$@"'


class OnASmallDisk(Server):
    """The data directory is a file system of half a megabyte, in a mount namespace of its own."""

    prefix = ("unshare", "--mount", "sh", "-c", MOUNT, "sh")

    @property
    def data(self) -> Path:
        assert self.process
        return Path(f"/proc/{self.process.pid}/root{self.folder}/causeway-data")

    @property
    def token(self) -> str:
        return (self.data / "token").read_text().strip()

    def fill(self) -> None:
        with suppress(OSError), (self.data / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(512)):
                pass

    def enlarge(self) -> None:
        assert self.process
        inside = ["nsenter", "--mount", "--target", str(self.process.pid)]
        subprocess.run([*inside, "mount", "-o", "remount,size=8m", self.folder / "causeway-data"], check=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OnASmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    (tmp_path / "causeway-data").mkdir()
    made = OnASmallDisk(tmp_path)
    made.start()
    yield made
    made.close()


def test_10002_a_full_disk_changes_nothing_and_traffic_goes_on(server: OnASmallDisk) -> None:
    api = server.api()
    large = {"name": "x" * 100, "proxy_protocol_from": [f"10.{n}.0.0/16" for n in range(250)]}
    with upper_origin() as origin:
        port = free_port()
        api.create(protocol=f"tcp/{port}", origin_direct=[f"tcp://127.0.0.1:{origin}"])

        def until_refused() -> httpx.Response:
            """Make applications until one is refused, which changes nothing."""
            for _ in range(200):
                before = api.state()
                answer = api.http.post(api.apps, json=api.body(x_causeway=large))
                if answer.status_code != 200:
                    assert api.state() == before
                    return answer
            raise AssertionError("the disk is never full")

        answer = until_refused()
        [error] = answer.json()["errors"]
        assert (answer.status_code, error["code"], error["side"]) == (503, 10002, "edge")
        assert "causeway.sqlite3 failed: database or disk is full" in error["message"]
        assert os.statvfs(server.data).f_bavail * os.statvfs(server.data).f_frsize < 100_000
        server.fill()  # what is left is within the database's own files
        answer = until_refused()
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (503, 10002)
        assert ask(port) == b"HELLO\n"
        assert server.status_of("/readyz") == 200, "the edge serves what is stored"

        server.enlarge()
        api.create(x_causeway=large)
        api.clear()
        with pytest.raises(ConnectionRefusedError):
            ask(port)
    assert server.stop() == 0
    assert "a restart would not find it" in server.log, "a snapshot that could not be kept is told"
    assert "Traceback" not in server.log
