"""The tutorial of docs/control.md, command by command as it is written, with names and addresses of here."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support.control import LEADS_S
from support.edge import CAUSEWAY
from support.outpost import Outpost
from support.patience import eventually
from support.ports import free_port
from support.postgres import PASSWORD, PostgresServer, need_postgresql
from support.program import Program, Programs, environment, need

PAGE = Path(__file__).parents[2] / "docs/control.md"
NAME = "causeway_page"
FIRST, SECOND = "127.0.0.11", "127.0.0.12"


class Machine:
    """A directory in which commands are typed."""

    def __init__(self, programs: Programs, folder: Path, postgres: PostgresServer) -> None:
        self._programs, self.folder = programs, folder
        folder.mkdir()
        pgpass = folder / ".pgpass"
        pgpass.write_text(f"127.0.0.1:{postgres.port}:*:causeway:{PASSWORD}\n")
        pgpass.chmod(0o600)
        self._environment = {"HOME": str(folder), "PGHOST": "127.0.0.1", "PGUSER": "causeway"}
        self._environment["PGPORT"] = str(postgres.port)

    def start(self, command: str) -> Program:
        return self._programs.start(*_words(command), cwd=self.folder, extra_environment={"HOME": str(self.folder)})

    def run(self, command: str) -> str:
        done = subprocess.run(
            _words(command), capture_output=True, text=True, timeout=30, cwd=self.folder,
            env=environment(self._environment),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def give(self, other: "Machine", *names: str) -> None:
        for name in names:
            (other.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / name, other.folder / name)


def _words(command: str) -> list[str | Path]:
    first, *others = shlex.split(command)
    programs = {"causeway": CAUSEWAY, "createdb": need_postgresql() / "createdb"}
    return [programs.get(first, first), *others]


def commands(here: dict[str, str]) -> list[str]:
    """The blocks of shell of the page."""
    blocks = [part.split("```")[0].strip() for part in PAGE.read_text().split("```sh\n")[1:]]
    for name, found in here.items():
        assert any(name in block for block in blocks), f"{PAGE.name} says {name} no more"
        blocks = [block.replace(name, found) for block in blocks]
    return blocks


@pytest.fixture
def machines(programs: Programs, tmp_path: Path, postgres: PostgresServer) -> list[Machine]:
    need("nats-server")
    return [Machine(programs, tmp_path / name, postgres) for name in ("ams", "fra")]


def test_the_tutorial_of_two_nodes(
    machines: list[Machine], programs: Programs, tmp_path: Path, postgres: PostgresServer
) -> None:
    ams, fra = machines
    database, safely = f"127.0.0.1:{postgres.port}/{NAME}", "?sslmode=verify-full&sslrootcert=/etc/causeway/db.crt"
    createdb, first, nats_server, second, status, invite = commands(
        {
            "db.example.net/causeway" + safely: database,
            "nats.example.net:4222": f"127.0.0.1:{free_port()}",
            "--locale C causeway": f"--locale C {NAME}",
            "10.8.0.1": FIRST,
            "10.8.0.2": SECOND,
        }
    )
    ams.run(createdb)
    leader = ams.start(first)
    eventually((ams.folder / nats_server.split()[-1]).exists, 20)
    nats = ams.start(f"{nats_server} -a 127.0.0.1")
    eventually(lambda: "Server is ready" in nats.output)
    ams.give(fra, "causeway-data/exchange/authority.json", "causeway-data/token")
    fra.start(second)

    def says(*words: str) -> bool:
        said = fra.run(status)
        assert all(word in said for word in words), said
        return True

    eventually(lambda: says(f"ams leads (http://{FIRST}:8787, term 1); fra answers"), LEADS_S)
    ams.run(invite)
    Outpost(programs, tmp_path / "edge", str(ams.folder / "nyc-1.join"), "nyc-1", "127.0.0.2").start(ready=None)
    eventually(lambda: says("edge nyc-1"), 20)

    refused = subprocess.run(
        [*_words("causeway zones create example.net"), *shlex.split(status)[2:]], capture_output=True, text=True,
        cwd=fra.folder, env=environment(), timeout=30, check=False,
    )  # fmt: skip
    told = f"this control node, fra, does not lead: ams does, ask http://{FIRST}:8787; nothing was changed"
    assert (refused.returncode, told in refused.stderr) == (1, True), refused.stderr
    leader.stop()
    eventually(lambda: says("fra leads"), LEADS_S)
    fra.run(f"causeway zones create example.net --url http://{SECOND}:8787 --token-file causeway-data/token")
