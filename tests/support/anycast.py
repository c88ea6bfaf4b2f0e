"""Two PoPs that announce one address to a router, with BIRD in each: client - router - (ams | fra).

client 198.18.1.1, router .2 towards it; ams 198.18.2.2 and fra 198.18.3.2, which the router reaches from .1. The
address, 198.18.100.7, is on the loopback of both. BIRD of the PoPs is configured as docs/anycast.md has it.
"""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from support.echo import start_echo
from support.edge import Running
from support.namespaces import Namespace, Namespaces
from support.patience import eventually
from support.program import Program, Programs, need, run

ADDRESS, PORT = "198.18.100.7", 7000
PAGE = Path(__file__).parents[2] / "docs/anycast.md"
POPS = {"ams": 2, "fra": 3}
START_S = 60.0  # of a machine that may be busy with other tests
_ROUTER = """
log stderr all;
router id 198.18.1.2;
protocol device { }
protocol kernel { ipv4 { export all; }; }
protocol bfd { interface "*" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
filter elsewhere_if_there_is {
  if (65535, 0) ~ bgp_community then bgp_local_pref = 0;
  accept;
}
"""
_NEIGHBOUR = """
protocol bgp pop%d {
  local 198.18.%d.1 as 64500;
  neighbor 198.18.%d.2 as 64512;
  bfd on;
  connect delay time 1; connect retry time 1; error wait time 1, 1; startup hold time 10;
  ipv4 { import filter elsewhere_if_there_is; export none; };
}
"""


def bird_conf(number: int, include: Path) -> str:
    """That of the page, with addresses of here."""
    blocks = [part.split("```")[0] for part in PAGE.read_text().split("```bird\n")[1:]]
    text = blocks[0]
    here = {
        "192.0.2.10": f"198.18.{number}.2",
        "192.0.2.1": f"198.18.{number}.1",
        "/etc/bird/causeway*.conf": f"{include.parent}/causeway*.conf",
    }
    for name, value in here.items():
        assert name in text, f"{PAGE.name} says {name} no more"
        text = text.replace(name, value)
    return text


class Bird:
    """One BIRD: started, killed, asked."""

    def __init__(self, programs: Programs, folder: Path, network: Namespace, text: str) -> None:
        need("bird", "birdc")
        folder.mkdir(exist_ok=True)
        self._programs, self._network = programs, network
        self.conf, self.socket = folder / "bird.conf", folder / "bird.ctl"
        self.conf.write_text(text)
        self.program: Program | None = None

    def start(self) -> "Bird":
        self.program = self._programs.start("bird", "-f", "-c", self.conf, "-s", self.socket, inside=self._network)
        eventually(lambda: "BIRD" in self.ask("show", "status"))
        return self

    def ask(self, *command: str) -> str:
        try:
            return run("birdc", "-s", self.socket, *command).decode()
        except AssertionError as error:
            raise OSError(str(error)) from error

    def end(self) -> None:
        assert self.program
        self.program.end()


class Pop:
    def __init__(self, world: "World", name: str, number: int) -> None:
        self._world, self.name, self.number = world, name, number
        self.network = world.namespaces.make()
        world.namespaces.join(world.router, self.network, number)
        self.network.ip("address", "add", f"{ADDRESS}/32", "dev", "lo")
        self.network.ip("route", "add", "default", "via", f"198.18.{number}.1")
        self.folder = world.programs.folder / name
        self.folder.mkdir()
        self.include = self.folder / "causeway.conf"
        flags = self._link(world)
        self.bird = Bird(world.programs, self.folder, self.network, bird_conf(number, self.include)).start()
        self.flags = (
            "--edge-ip", ADDRESS, "--workers", "1", "--anycast", f"{ADDRESS}/32", "--anycast-med", str(number),
            "--anycast-community", "64512:100", "--bird-socket", str(self.bird.socket),
            "--bird-include", str(self.include), *flags,
        )  # fmt: skip
        self.edge = Running(world.programs, self.folder / "data", *self.flags, inside=self.network)
        self.origin = start_echo(world.programs, f"198.18.{number}.2", greeting=f"{name} ", inside=self.network)

    def _link(self, world: "World") -> tuple[str, ...]:
        """The second PoP has a link of its own to the first, which passes connections on over it."""
        if not world.pops:
            return ("--anycast-pass-to", "198.18.4.2")
        world.namespaces.join(world.pops["ams"].network, self.network, 4)
        return ()

    def serve(self) -> "Pop":
        """Have the application there that is asked for; its origin says which PoP it is in."""
        self.await_readiness()
        self.edge.create_application(f"tcp/{PORT}", f"tcp://198.18.{self.number}.2:{self.origin}")
        return self

    def vanish(self) -> None:
        """Nothing comes from there any more, not even a lost link; then everything there has ended."""
        self._world.cut(self.number)
        self.bird.end()
        self.edge.kill_all()

    def heal(self) -> None:
        """Start everything of it that has ended; `await_readiness` is for afterwards."""
        self._world.join_again()
        if not (self.bird.program and self.bird.program.is_running):
            self.bird.start()
        if not (self.edge.program and self.edge.program.is_running):
            self.edge.launch()

    def await_readiness(self) -> None:
        eventually(lambda: self.edge.readiness().status_code == 200, START_S)

    def anycast(self) -> dict[str, Any]:
        """What `causeway status` has of it."""
        found: dict[str, Any] = self.edge.status()["edges"][0]["anycast"]
        return found


class World:
    def __init__(self, namespaces: Namespaces, programs: Programs) -> None:
        need("bird", "nft")
        self.namespaces, self.programs = namespaces, programs
        self.client, self.router = namespaces.make(), namespaces.make()
        namespaces.join(self.client, self.router, 1)
        self.client.ip("route", "add", "default", "via", "198.18.1.2")
        self.router.setting("ipv4/ip_forward", "1")
        self.pops: dict[str, Pop] = {}
        for name, number in POPS.items():
            self.pops[name] = Pop(self, name, number)
        text = _ROUTER + "".join(_NEIGHBOUR % (number, number, number) for number in POPS.values())
        self.bird = Bird(programs, programs.folder / "router", self.router, text).start()

    def cut(self, number: int) -> None:
        """Drop what comes from a PoP and goes there, in the router: its links stay up."""
        with self.router:
            found = json.loads(run("ip", "-j", "address", "show", "to", f"198.18.{number}.1"))
            device = next(link["ifname"] for link in found if link)
            rules = f"""table inet cut {{
                chain from {{ type filter hook prerouting priority -300; iifname "{device}" drop; }}
                chain towards {{ type filter hook postrouting priority 300; oifname "{device}" drop; }}
            }}"""
            run("nft", "-f", "-", stdin=rules.encode())

    def join_again(self) -> None:
        with self.router:
            subprocess.run(["nft", "delete", "table", "inet", "cut"], capture_output=True, check=False)

    def close(self) -> None:
        for pop in self.pops.values():
            pop.edge.close()

    def routes(self) -> str:
        """What the router knows of the address, the best way first."""
        return self.bird.ask("show", "route", "all")

    def ways(self) -> list[str]:
        """The PoPs that the router could send to, the best first."""
        names = {str(number): name for name, number in POPS.items()}
        lines = [line for line in self.routes().splitlines() if "[pop" in line]
        lines.sort(key=lambda line: "*" not in line.split("]")[1])
        return [names[line.split("[pop")[1][0]] for line in lines]

    def connect(self, port: int = PORT) -> socket.socket:
        with self.client:
            return socket.create_connection((ADDRESS, port), timeout=5.0)

    def ask(self, within_s: float = 1.0, port: int = PORT) -> str:
        """The PoP that answers a new connection. An OSError: none does."""
        with self.client:
            connection = socket.create_connection((ADDRESS, port), timeout=within_s)
        with connection:
            connection.sendall(b"hello")
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer:
                name, _, echo = answer.read().decode().partition(" ")
        if echo != "hello":
            raise ConnectionError(f"the answer was {name!r} {echo!r}")
        return name


@dataclass
class Stream:
    """New connections at a fixed pace, whatever became of those before."""

    world: World
    every_s: float = 0.02
    port: int = PORT
    results: list[tuple[float, float, str]] = field(default_factory=list)  # start, end, PoP or what went wrong

    def one(self) -> None:
        began_s = time.monotonic()
        try:
            told = self.world.ask(within_s=4.0, port=self.port)
        except OSError as error:
            told = f"failed: {error!r}"
        self.results.append((began_s, time.monotonic(), told))

    @contextmanager
    def flowing(self) -> Iterator["Stream"]:
        is_over, threads = threading.Event(), list[threading.Thread]()

        def pace() -> None:
            due_s = time.monotonic()
            while not is_over.is_set():
                threads.append(threading.Thread(target=self.one))
                threads[-1].start()
                due_s += self.every_s
                is_over.wait(max(0.0, due_s - time.monotonic()))

        pacer = threading.Thread(target=pace)
        pacer.start()
        try:
            yield self
        finally:
            is_over.set()
            pacer.join()
            for thread in threads:
                thread.join()

    def failures(self) -> list[str]:
        return [told for _, _, told in self.results if told not in POPS]

    def gap_s(self) -> float:
        """The longest time in which no new connection was answered."""
        ends = sorted(end for _, end, told in self.results if told in POPS)
        return max(later - earlier for earlier, later in pairwise(ends))


def soon(look: Callable[[], object], within_s: float) -> float:
    """How long it took until that was true."""
    began_s = time.monotonic()
    eventually(look, within_s)
    return time.monotonic() - began_s
