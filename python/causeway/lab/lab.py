"""A lab that is up: made from a world, changed while it runs, taken down without a trace."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from causeway.lab import namespaces, network, programs, record, relay, wan
from causeway.lab.problem import LabError
from causeway.lab.record import NODES, Record
from causeway.lab.shape import Shape
from causeway.lab.wan import LinkStatus, WanStatus
from causeway.lab.world import Network, Node, World, read_world

ECHO_PORT = 7
DATA = network.DATA
_DEVICE, _WAN = "wan0", "wan"
_QUEUE_FRAMES = 10_000  # between a node and the relay: what the relay has not read is in no count
_WAN_READY_S, _READY_S, _READY_EACH_S, _LOOK_S = 20.0, 30.0, 5.0, 0.05


class NodeStatus(msgspec.Struct, frozen=True):
    name: str
    kind: str
    place: str
    address: str
    address6: str
    is_failed: bool
    programs: list[dict[str, Any]]


class Status(msgspec.Struct, frozen=True):
    name: str
    nodes: list[NodeStatus]
    wan: WanStatus
    """Its links are those that were used or changed, unless all were asked for."""


class Lab:
    """Change and look at one lab; as a block, it is taken down at the end."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world

    @classmethod
    def up(cls, text: str, folder: Path | None = None, name: str = "world", file: str = "world.toml") -> Lab:
        """Make the world that a `world.toml` says, and wait until its PoPs and origins serve.

        Raises:
            LabError: it cannot be; nothing is left.
        """
        world = read_world(text, name, file)
        namespaces.check_can()
        if world.network:
            network.check_can()
        folder = (folder or record.default_folder(world.name)).absolute()
        lab = cls(folder, world)
        with record.alone(folder):
            record.begin(folder, Record(world.name))
            try:
                (folder / "world.toml").write_text(text)
                lab._build()
                lab._wait_until_it_serves()
            except BaseException:
                _take_down(folder)
                raise
        return lab

    @classmethod
    def open(cls, folder: Path) -> Lab:
        """Find the lab that is up in a folder.

        Raises:
            LabError: there is none.
        """
        folder = folder.absolute()
        kept = record.load(folder)
        try:
            text = (folder / "world.toml").read_text()
        except OSError as error:
            raise LabError("lab_folder", f"{folder}/world.toml cannot be read: {error.strerror}") from error
        return cls(folder, read_world(text, kept.name))

    def down(self) -> list[str]:
        """Take all away; answers what goes on in its namespaces that it has not started."""
        return take_down(self.folder)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def link(self, a: str, b: str, *, one_way: bool = False, rtt_ms: float | None = None, **values: Any) -> Lab:
        """Change a link while it runs: the values of `Shape`, from a to b and, unless `one_way`, back."""
        if rtt_ms is not None:
            if one_way or "delay_ms" in values:
                raise LabError("lab_link_value", "rtt_ms is of both ways: give delay_ms instead")
            values["delay_ms"] = rtt_ms / 2
        return self._change(a, b, one_way, Shape(**values).told())

    def fail(self, node: str, other: str | None = None, *, one_way: bool = False) -> Lab:
        """Let nothing reach or leave a node; or cut the link between two."""
        return self._set_failed(node, other, one_way, True)

    def heal(self, node: str, other: str | None = None, *, one_way: bool = False) -> Lab:
        """Undo `fail`."""
        return self._set_failed(node, other, one_way, False)

    def inside(self, node: str) -> AbstractContextManager[None]:
        """Let the calling thread, and what it starts, be in the network of a node."""
        return namespaces.inside(self.namespace(node))

    def run(self, node: str, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in a node to its end, in a PoP with control with the token of its API."""
        token = self.node_folder(node) / DATA / "token"
        told = {"CAUSEWAY_API_TOKEN": token.read_text().strip()} if token.exists() else {}
        return _run(self.namespace(node), node, command, told, folder)

    def namespace(self, node: str) -> str:
        return _namespace(self.world, self.world.node(node).name)

    def node_folder(self, node: str) -> Path:
        """Where the programs of a node have their data and logs."""
        return self.folder / NODES / self.world.node(node).name

    def status(self, *, is_all: bool = False) -> Status:
        told = self._ask({"do": "status", "is_all": is_all})
        assert told
        kept = record.load(self.folder)
        nodes = [
            NodeStatus(
                node.name,
                node.kind,
                node.place.name if node.place else "",
                node.address,
                node.address6,
                node.name in told.down,
                [
                    {"command": " ".join(p.command), "pid": p.pid, "is_alive": p.is_alive, "log": p.log}
                    for p in kept.programs
                    if p.node == node.name
                ],
            )
            for node in self.world.nodes
        ]
        return Status(kept.name, nodes, told)

    def direction(self, a: str, b: str) -> LinkStatus:
        """How one direction of a link is, and what went over it."""
        told = self._ask({"do": "direction", "from": a, "to": b})
        assert told
        [found] = told.links
        return found

    def _ask(self, command: dict[str, Any]) -> WanStatus | None:
        return wan.ask(self.folder, command)

    def _change(self, a: str, b: str, one_way: bool, change: dict[str, Any]) -> Lab:
        for name in (a, b):
            self.world.node(name)  # its words about a wrong name are the better ones
        self._ask({"do": "link", "from": a, "to": b, "is_both_ways": not one_way, "change": change})
        return self

    def _set_failed(self, node: str, other: str | None, one_way: bool, is_failed: bool) -> Lab:
        if other is not None:
            return self._change(node, other, one_way, {"is_cut": is_failed})
        if one_way:
            raise LabError("lab_link_value", "one way is of a link: name its two nodes")
        self._ask({"do": "node", "name": self.world.node(node).name, "is_down": is_failed})
        return self

    def _build(self) -> None:
        names = [_namespace(self.world, node) for node in (_WAN, *(node.name for node in self.world.nodes))]
        taken = [name for name in names if namespaces.path(name).exists()]
        if taken:
            raise LabError("lab_name_taken", f"namespace {taken[0]} is there already: give this world another name")
        record.save(self.folder, Record(self.world.name, names))  # on record before they are: a kill leaves no orphans
        namespaces.make(names)
        (self.folder / relay.WORLD).write_bytes(msgspec.json.encode(self._for_the_relay()))
        command = [sys.executable, "-m", "causeway.lab.relay", str(self.folder)]
        self._start(_WAN, command, self.folder, self.folder / "wan.log")
        self._wait_for_the_wan()
        for node in self.world.nodes:
            namespaces.configure(self.namespace(node.name), _configuration(node))
        joining = self.world.edges()
        for node in self.world.nodes:
            folder = self.node_folder(node.name)
            folder.mkdir(parents=True)
            if node not in joining:
                self._start_all(node, _programs(node, folder, self.world.network))
        self._join(joining)

    def _start_all(self, node: Node, commands: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
        folder = self.node_folder(node.name)
        for words, after in commands:
            number = len(list(folder.glob("*.log")))
            self._start(node.name, words, folder, folder / f"{Path(words[0]).name}-{number}.log", after)

    def _join(self, joining: Sequence[Node]) -> None:
        """Have the other PoPs join control, once it and its nats-server are there."""
        told = self.world.network
        if told is None:
            return
        control = self.world.node(told.control)
        folder = self.node_folder(control.name)
        self._wait_for([(control, _serves_api)])
        self._start_all(control, [(network.exchange(folder), ())])
        for node in joining:
            done = self.run(control.name, *network.invite(node), folder=folder)
            if done.returncode:
                raise LabError("lab_program", f"{node.name} is not invited: {done.stderr.strip()}")
            (folder / f"{node.name}.join").rename(self.node_folder(node.name) / f"{node.name}.join")
            self._start_all(node, _programs(node, self.node_folder(node.name), told))

    def _for_the_relay(self) -> dict[str, Any]:
        nodes = [
            {
                "name": node.name,
                "namespace": str(namespaces.path(self.namespace(node.name))),
                "device": _DEVICE,
                "mac": node.mac,
                "prefixes": node.networks,
            }
            for node in self.world.nodes
        ]
        links = [
            {"between": link.between, "there": link.there.told(), "back": link.back.told()} for link in self.world.links
        ]
        return {"seed": self.world.seed, "nodes": nodes, "links": links}

    def _start(self, node: str, command: Sequence[str], folder: Path, log: Path, after: Sequence[str] = ()) -> None:
        started = programs.start(node, _namespace(self.world, node), command, folder, log, after)
        kept = record.load(self.folder)
        kept.programs.append(started)
        record.save(self.folder, kept)

    def _wait_for_the_wan(self) -> None:
        [relay_program] = record.load(self.folder).programs
        end_s = time.monotonic() + _WAN_READY_S
        while True:
            with suppress(LabError):
                self._ask({"do": "status", "is_all": False})
                return
            if not relay_program.is_alive or time.monotonic() > end_s:
                raise LabError("lab_wan", f"the WAN did not start: {relay_program.last_words()}")
            time.sleep(_LOOK_S)

    def _wait_until_it_serves(self) -> None:
        self._wait_for(
            [
                (node, _serves_api if node.kind == "pop" else _echoes)
                for node in self.world.nodes
                if node.programs is None and node.kind != "client"
            ]
        )

    def _wait_for(self, waiting: Sequence[tuple[Node, Callable[[], bool]]]) -> None:
        end_s = time.monotonic() + _READY_S + _READY_EACH_S * len(waiting)
        for node, is_ready in waiting:
            while not self._look(node, is_ready):
                program = next(p for p in record.load(self.folder).programs if p.node == node.name)
                if not program.is_alive or time.monotonic() > end_s:
                    raise LabError("lab_program", f"{node.name} does not serve: {program.last_words()}")
                time.sleep(_LOOK_S)

    def _look(self, node: Node, is_ready: Callable[[], bool]) -> bool:
        try:
            with self.inside(node.name):
                return is_ready()
        except OSError:
            return False


def take_down(folder: Path) -> list[str]:
    """End the programs of the lab in a folder, and remove its namespaces and files."""
    record.load(folder)  # before a lock makes a folder
    with record.alone(folder):
        return _take_down(folder)


def _take_down(folder: Path) -> list[str]:
    kept = record.load(folder)
    programs.end(kept.programs)
    for program in kept.programs:
        if program.after and namespaces.path(program.namespace).exists():
            # Inside: what an edge has left in the kernel is of its namespace.
            _run(program.namespace, program.node, program.after)
    left = [f"process {pid} in {name}" for name in kept.namespaces for pid in namespaces.pids(name)]
    namespaces.remove(kept.namespaces)
    record.erase(folder)
    return left


def _run(
    namespace: str, node: str, command: Sequence[str], told: Mapping[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    words = ["nsenter", f"--net={namespaces.path(namespace)}", "--", *command]
    environment = {**programs.environment(node), **(told or {})}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=folder)


@contextmanager
def _open_connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as end:
        yield end


def _echoes() -> bool:
    with _open_connection(ECHO_PORT):
        return True


def _serves_api() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", network.API_PORT, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except http.client.HTTPException:
        return False
    finally:
        connection.close()


def _namespace(world: World, node: str) -> str:
    return f"lab-{world.name}-{node}"


def _configuration(node: Node) -> list[str]:
    """Every address of the lab is a neighbour; there is no way to anything else."""
    return [
        "link set lo up",
        f"link set {_DEVICE} address {node.mac} txqueuelen {_QUEUE_FRAMES}",
        f"address add {node.address}/15 dev {_DEVICE}",
        f"address add {node.address6}/32 dev {_DEVICE} nodad",
        f"link set {_DEVICE} up",
    ]


def _programs(node: Node, folder: Path, told: Network | None) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """What runs in a node, each with what is to run when it has ended."""
    if node.programs is not None:
        values = {"name": node.name, "address": node.address, "address6": node.address6, "dir": str(folder)}
        return [(tuple(_filled(word, values) for word in words), ()) for words in node.programs]
    if node.kind == "pop":
        return [network.pop(node, folder, told)]
    if node.kind == "origin":
        return [((sys.executable, "-m", "causeway.lab.echo", str(ECHO_PORT)), ())]
    return []


def _filled(word: str, values: dict[str, str]) -> str:
    """Put the values of a node where their names stand in braces; other braces stay."""
    for name, value in values.items():
        word = word.replace("{" + name + "}", value)
    return word
