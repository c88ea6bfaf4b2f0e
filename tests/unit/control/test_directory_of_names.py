"""What names are answered with as edges come, say nothing, and come back: the time is told, nobody waits."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from test_change import World

from causeway.control.names import Directory
from causeway.exchange.words import Site, Told
from causeway.model.names import EdgeSeen, Terms, read_table
from causeway.model.report import OpenFiles, Report

TRUSTED_S = 100.0  # long after the exchange came up


def report(version: int = 1, is_draining: bool = False, serves: tuple[str, ...] = ("app1",)) -> Report:
    return Report(
        version, is_draining, 1, 1, OpenFiles(1, 2), {}, [{"id": one} for one in serves], [], msgspec.Raw(b"[]"), 0, []
    )


@dataclass
class Edge:
    """What the exchange knows of one."""

    name: str
    address: str
    is_silent: bool = False
    seen: Report | None = field(default_factory=report)

    site: Site | None = None

    @property
    def told(self) -> Told:
        return Told(self.site or Site([self.address]), msgspec.Raw(b"{}"))

    def report(self) -> Report | None:
        return self.seen


@dataclass
class Server:
    """It keeps what it is given."""

    table: bytes | None = None
    serial: int = 0
    places_sha256: str = ""
    given: int = 0

    def set_table(self, table: bytes) -> None:
        self.table, self.serial, self.given = table, read_table(table).serial, self.given + 1

    def set_places(self, mmdb: bytes | None) -> str | None:
        return None

    def counters(self) -> bytes:
        return b"null"


class Network:
    """A plane with its database, an exchange of our making, and the directory under test."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.folder = folder
        self.edges: list[Edge] = []
        self.exchange: Any = SimpleNamespace(edges=lambda: self.edges, is_connected=True)
        self.world.plane.fleet = SimpleNamespace(
            exchange=self.exchange, on_forget=None, is_staging=False, check_size=lambda _: None
        )  # type: ignore[assignment]
        self.app = self.world.create(1000, edge_ips={"type": "dynamic"}).id
        self.name = self.world.plane.pieces[self.app].application.dns.name
        self.anew()

    def anew(self) -> None:
        """Control starts again, with what is on disk."""
        self.server = Server()
        own = EdgeSeen((ip_address("127.0.0.1"),))
        kept = self.folder / "edges-seen.json"
        self.directory = Directory(self.world.plane, self.server, Terms(20), own, kept)

    def edge(self, name: str, address: str, **changes: Any) -> Edge:
        made = Edge(name, address, seen=report(serves=(self.app,)), **changes)
        self.edges.append(made)
        return made

    def answered(self, at_s: float) -> list[str]:
        self.directory.keep(at_s)
        assert self.server.table
        [name] = [name for name in read_table(self.server.table).names if name.name == self.name]
        return sorted(at for site in name.sites for at in site.addresses)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    yield made
    made.world.stop()


def test_an_edge_that_is_silent_is_out_and_in_again_when_it_is_heard_of(network: Network) -> None:
    fra, _ = network.edge("fra-1", "192.0.2.1"), network.edge("nyc-1", "192.0.2.2")
    assert network.answered(0) == ["192.0.2.1", "192.0.2.2"]
    fra.is_silent = True
    assert network.answered(TRUSTED_S) == ["192.0.2.2"]
    fra.is_silent = False
    assert network.answered(TRUSTED_S + 1) == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.parametrize(
    "seen", [report(version=0), report(is_draining=True), report(serves=())], ids=["no snapshot", "draining", "behind"]
)
def test_an_edge_that_takes_no_new_clients_is_out(network: Network, seen: Report) -> None:
    fra, _ = network.edge("fra-1", "192.0.2.1"), network.edge("nyc-1", "192.0.2.2")
    fra.seen = seen
    assert network.answered(0) == ["192.0.2.2"]


def test_silence_is_not_believed_while_nothing_can_be_heard_nor_right_after(network: Network) -> None:
    fra, nyc = network.edge("fra-1", "192.0.2.1"), network.edge("nyc-1", "192.0.2.2")
    everywhere = network.answered(0)
    network.exchange.is_connected = False
    fra.is_silent = nyc.is_silent = True
    assert network.answered(TRUSTED_S) == everywhere
    network.exchange.is_connected = True
    assert network.answered(2 * TRUSTED_S) == everywhere
    nyc.is_silent = False
    assert network.answered(2 * TRUSTED_S + 9) == everywhere
    assert network.answered(2 * TRUSTED_S + 11) == ["192.0.2.2"]


def test_control_that_starts_anew_knows_the_edges_that_it_has_not_heard_of_yet(network: Network) -> None:
    fra, _ = network.edge("fra-1", "192.0.2.1"), network.edge("nyc-1", "192.0.2.2")
    everywhere = network.answered(0)
    network.edges.clear()
    network.anew()
    assert network.answered(0) == everywhere
    assert network.answered(5) == everywhere
    network.edges.append(fra)
    assert network.answered(20) == ["192.0.2.1"], "the other one has not come back"


def test_a_damaged_memory_is_none(network: Network) -> None:
    network.edge("fra-1", "192.0.2.1")
    network.answered(0)
    for damage in (b"{", b"[]", b'{"fra-1": {"addresses": ["nowhere"]}}', b"\xff"):
        (network.folder / "edges-seen.json").write_bytes(damage)
        network.anew()
        assert network.answered(0) == ["192.0.2.1"], damage


def test_a_table_is_made_when_something_is_another_and_its_number_grows(network: Network) -> None:
    fra = network.edge("fra-1", "192.0.2.1")
    network.answered(0)
    for at_s in (1, 2, 3):
        network.answered(at_s)
    assert network.server.given == 1
    first = read_table(network.server.table or b"").serial
    fra.address = "192.0.2.9"
    assert network.answered(4) == ["192.0.2.9"]
    assert network.server.given == 2
    assert read_table(network.server.table or b"").serial > first


def test_an_edge_that_was_revoked_is_forgotten(network: Network) -> None:
    network.edge("fra-1", "192.0.2.1")
    nyc = network.edge("nyc-1", "192.0.2.2")
    network.answered(0)
    network.edges.remove(nyc)
    network.directory.forget("nyc-1")
    assert network.answered(1) == ["192.0.2.1"]


@pytest.mark.parametrize(
    "site",
    [
        Site(["nowhere"]),
        Site(["192.0.2.1"], location=(91.0, 0.0)),
        Site(["192.0.2.1"], public_addresses=["192.0.2.1000"]),
        Site(["192.0.2.1"], name_servers=["192.0.2.1"], server_names=["no name"]),
        Site(["192.0.2.1"], name_servers=["here"]),
    ],
)
def test_an_edge_that_says_what_cannot_be_is_left_out_and_the_others_stay(network: Network, site: Site) -> None:
    network.edge("fra-1", "192.0.2.1", site=site)
    network.edge("nyc-1", "192.0.2.2")
    assert network.answered(0) == ["192.0.2.2"]
