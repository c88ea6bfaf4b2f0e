"""The tutorial of docs/edges.md on three machines, each a network of its own, command by command as it is written."""

import shlex
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from support.echo import ask, start_echo
from support.edge import CAUSEWAY
from support.namespaces import Namespace, Namespaces
from support.patience import eventually
from support.program import Program, Programs, environment, need

PAGE = Path(__file__).parents[2] / "docs/edges.md"
CONTROL, FRA, AMS = "198.18.1.1", "198.18.1.2", "198.18.2.2"


class Machine:
    """A network and a directory, in which commands are typed."""

    def __init__(self, programs: Programs, network: Namespace, folder: Path) -> None:
        self._programs, self.network, self.folder = programs, network, folder
        folder.mkdir()

    def start(self, command: str) -> Program:
        return self._programs.start(*_words(command), inside=self.network, cwd=self.folder)

    def run(self, command: str) -> str:
        token = self.folder / "causeway-data" / "token"
        steering = {"CAUSEWAY_API_TOKEN": token.read_text().strip()} if token.exists() else {}
        with self.network:
            done = subprocess.run(
                _words(command), capture_output=True, text=True, timeout=30, cwd=self.folder, env=environment(steering)
            )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def readiness(self) -> dict[str, object]:
        with self.network:
            told: dict[str, object] = httpx.get("http://127.0.0.1:8787/readyz", trust_env=False).json()
        return told


def _words(command: str) -> list[str]:
    return [str(CAUSEWAY) if word == "causeway" else word for word in shlex.split(command)]


def commands() -> list[str]:
    """The blocks of shell of the page, with addresses of here."""
    blocks = [part.split("```")[0].strip() for part in PAGE.read_text().split("```sh\n")[1:]]
    for name, here in {"control.example.net": CONTROL, "203.0.113.7": FRA}.items():
        assert any(name in block for block in blocks), f"{PAGE.name} says {name} no more"
        blocks = [block.replace(name, here) for block in blocks]
    return blocks


@pytest.fixture
def machines(namespaces: Namespaces, programs: Programs, tmp_path: Path) -> list[Machine]:
    need("nats-server")
    control, fra, ams = (namespaces.make() for _ in range(3))
    namespaces.join(control, fra, 1)
    namespaces.join(control, ams, 2)
    ams.ip("route", "add", CONTROL, "via", "198.18.2.1")
    named = {"control": control, "fra": fra, "ams": ams}
    return [Machine(programs, network, tmp_path / name) for name, network in named.items()]


def test_the_tutorial_of_three_machines(machines: list[Machine], programs: Programs) -> None:
    control, fra, ams = machines
    up, exchange, invite, join = commands()[:4]
    assert [command.split()[:2] for command in (up, invite, join)] == [
        ["causeway", "up"],
        ["causeway", "invite"],
        ["causeway", "edge"],
    ]
    control.start(up)
    eventually((control.folder / exchange.split()[-1]).exists, 20)
    nats = control.start(exchange)
    eventually(lambda: "Server is ready" in nats.output)
    for machine, name, address in ((fra, "fra-1", FRA), (ams, "ams-1", AMS)):
        control.run(invite.replace("fra-1", name))
        shutil.copy(control.folder / f"{name}.join", machine.folder)
        machine.start(join.replace("fra-1", name).replace(FRA, address))
    for machine in (fra, ams):
        eventually(lambda machine=machine: machine.readiness()["ready"], 20)

    origin = start_echo(programs, CONTROL, inside=control.network)
    control.run("causeway zones create example.net")
    control.run(f"causeway apps create --dns echo.example.net --protocol tcp/7000 --origin {CONTROL}:{origin}")
    with control.network:
        for address in (FRA, AMS):
            eventually(lambda address=address: ask(7000, address) == b"hello")
    listed = control.run("causeway edges")
    for word in ("local", "fra-1", "ams-1", FRA, AMS, "serving"):
        assert word in listed
