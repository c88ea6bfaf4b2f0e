"""An edge of several that announces an address: what control decides reaches its routers first, and its death does not.

All of it in one namespace, with a real nats-server and a real BIRD, whose own routes are looked at.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.anycast import ADDRESS, Bird
from support.echo import ask, start_echo
from support.edge import CAUSEWAY, Running
from support.namespaces import Namespaces
from support.nats import NatsServer
from support.outpost import Outpost
from support.patience import eventually
from support.ports import free_port
from support.program import Programs, need, run


class Network:
    def __init__(self, programs: Programs, folder: Path, make_edge: Callable[..., Running], bird: Bird) -> None:
        self.bird, self.port = bird, free_port()
        self.nats = NatsServer(programs, folder / "nats").start()
        self.control = make_edge("--exchange", self.nats.url, "--workers", "1").start()
        flags = ("--anycast", f"{ADDRESS}/32", "--bird-socket", str(bird.socket))
        include = ("--bird-include", str(folder / "causeway.conf"), "--allow-loopback-origins")
        self.edge = Outpost(programs, folder / "fra-1", self.nats.url, "fra-1", ADDRESS, *flags, *include)
        self.edge.start(ready=None)
        self.control.create_application(f"tcp/{self.port}", f"tcp://127.0.0.1:{start_echo(programs)}")

    def state(self) -> dict[str, Any]:
        return next(edge for edge in self.control.status()["edges"] if edge["name"] == "fra-1")

    def announced(self) -> str:
        return self.bird.ask("show", "route", "all")

    def drain(self, *flags: str) -> None:
        run(
            "env",
            f"CAUSEWAY_API_TOKEN={self.control.token}",
            CAUSEWAY,
            "drain",
            "fra-1",
            "--url",
            self.control.url,
            *flags,
        )

    def is_served(self) -> bool:
        return ask(self.port, ADDRESS) == b"hello"


@pytest.fixture
def network(
    namespaces: Namespaces, programs: Programs, tmp_path: Path, make_edge: Callable[..., Running]
) -> Iterator[Network]:
    need("nats-server", "bird")
    place = namespaces.make()
    place.ip("address", "add", f"{ADDRESS}/32", "dev", "lo")
    conf = f'router id 198.18.0.1;\nprotocol device {{ }}\ninclude "{tmp_path}/causeway*.conf";\n'
    with place:  # programs that are started in here are in there
        yield Network(programs, tmp_path, make_edge, Bird(programs, tmp_path, place, conf).start())


def test_an_edge_that_is_drained_is_withdrawn_before_its_ports_close(network: Network) -> None:
    eventually(lambda: ADDRESS in network.announced(), 20)
    eventually(network.is_served, 10)
    seen = []

    def is_withdrawn() -> bool:
        assert network.is_served()  # all the time
        seen.append("(65535,0)" in network.announced())
        return ADDRESS not in network.announced()

    network.drain()
    eventually(is_withdrawn, 10)
    assert any(seen)
    eventually(lambda: network.state()["remote"]["is_drained"] and not network.state()["remote"]["trouble"], 15)
    with pytest.raises(ConnectionRefusedError):
        ask(network.port, ADDRESS)

    network.drain("--undo")
    eventually(network.is_served, 10)
    eventually(lambda: ADDRESS in network.announced(), 15)


def test_an_edge_without_control_goes_on_announcing_and_announces_after_a_restart(network: Network) -> None:
    eventually(lambda: ADDRESS in network.announced(), 20)
    network.control.kill_all()
    network.nats.kill()
    network.edge.stop()
    assert ADDRESS not in network.announced()
    network.edge.start()
    eventually(lambda: ADDRESS in network.announced(), 10)
    assert network.is_served()
    assert network.edge.told()["anycast"]["prefixes"][0]["state"] == "announced"
