"""A world as `world.toml` says it: nodes at places, links between them, programs in them.

Pure. A mistake is told with its place in the file. Addresses follow from the order of the nodes.
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
import tomllib
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar

import msgspec

from causeway.lab.place import DETOUR, Place, city
from causeway.lab.problem import LabError
from causeway.lab.shape import Shape

Kind = Literal["pop", "client", "origin"]
Told = TypeVar("Told")

MOST_NODES = 511  # a /24 of 198.18.0.0/15 for each, and the first for the WAN itself
MOST_BYTES = 4 << 20
MOST_PROGRAMS = 16
MOST_FLAGS = 32
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?")
_NAME_RULE = "1 to 24 of a-z, 0-9 and -, not at an end"


@dataclass(frozen=True, slots=True)
class Node:
    number: int
    name: str
    kind: Kind
    place: Place | None
    programs: tuple[tuple[str, ...], ...] | None
    """None: those of its kind."""

    @property
    def address(self) -> str:
        return f"198.{18 + self.number // 256}.{self.number % 256}.1"

    @property
    def address6(self) -> str:
        return f"2001:db8:{self.number:x}::1"

    @property
    def networks(self) -> tuple[str, ...]:
        """All that the WAN brings here."""
        return (f"198.{18 + self.number // 256}.{self.number % 256}.0/24", f"2001:db8:{self.number:x}::/48")

    @property
    def mac(self) -> str:
        return f"02:ca:5e:01:{self.number // 256:02x}:{self.number % 256:02x}"


@dataclass(frozen=True, slots=True)
class Link:
    between: tuple[str, str]
    there: Shape
    back: Shape


@dataclass(frozen=True, slots=True)
class Network:
    """PoPs that belong together: where control is, and more flags of its `causeway up`."""

    control: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    name: str
    seed: int
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    network: Network | None = None
    """None: each PoP is by itself."""

    def edges(self) -> list[Node]:
        """PoPs that join control."""
        if self.network is None:
            return []
        return [n for n in self.nodes if n.kind == "pop" and n.programs is None and n.name != self.network.control]

    def node(self, name: str) -> Node:
        """Find a node.

        Raises:
            LabError: no node is called that.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError("lab_unknown_node", f"no node is called {name!r}{_did_you_mean(name, self.nodes)}")


class _Node(msgspec.Struct, forbid_unknown_fields=True):
    kind: Kind
    place: str | tuple[float, float] | None = None
    programs: list[list[str] | str] | None = None


class _Link(Shape, frozen=True, forbid_unknown_fields=True, kw_only=True):
    between: tuple[str, str]
    rtt_ms: float | None = None
    back: Shape = Shape()


class _Network(msgspec.Struct, forbid_unknown_fields=True):
    control: str
    flags: list[str] = []


class _World(msgspec.Struct, forbid_unknown_fields=True):
    nodes: dict[str, dict[str, Any]]
    name: str | None = None
    seed: int = 1
    mesh: bool = True
    detour: float = DETOUR
    defaults: dict[str, Any] = {}
    links: list[dict[str, Any]] = []
    network: _Network | None = None


def read_world(text: str, name: str, file: str = "world.toml") -> World:
    """Read a world; `name` is that of one which has none.

    Raises:
        LabError: what is wrong, and where.
    """
    return _Reader(file).read(text, name)


class _Reader:
    def __init__(self, file: str) -> None:
        self._file = file

    def read(self, text: str, name: str) -> World:
        if len(text) > MOST_BYTES:
            self._refuse("", f"it has more than {MOST_BYTES} characters")
        try:
            table = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            self._refuse("", f"it is not TOML: {error}")
        read = self._convert(table, _World, "")
        name = read.name or name
        self._check_name(name, "name")
        if not 0 <= read.seed < 2**63:
            self._refuse("seed", f"{read.seed} is not 0 to 2^63 - 1")
        if not 1 <= read.detour <= 10:
            self._refuse("detour", f"{read.detour:g} is not 1 to 10")
        if not 1 <= len(read.nodes) <= MOST_NODES:
            self._refuse("nodes", f"there are {len(read.nodes)}: 1 to {MOST_NODES} are possible")
        nodes = tuple(self._node(number, *item) for number, item in enumerate(read.nodes.items(), 1))
        defaults = self._shape(self._convert(read.defaults, Shape, "defaults"), "defaults")
        return World(name, read.seed, nodes, tuple(self._links(read, nodes, defaults)), self._network(read, nodes))

    def _network(self, read: _World, nodes: tuple[Node, ...]) -> Network | None:
        told = read.network
        if told is None:
            return None
        pops = [node for node in nodes if node.kind == "pop" and node.programs is None]
        if told.control not in [node.name for node in pops]:
            self._refuse("network.control", f"{told.control!r} is no PoP without programs of its own")
        if len(told.flags) > MOST_FLAGS:
            self._refuse("network.flags", f"there are {len(told.flags)}: {MOST_FLAGS} at most")
        return Network(told.control, tuple(told.flags))

    def _node(self, number: int, name: str, table: dict[str, Any]) -> Node:
        where = f"nodes.{name}"
        self._check_name(name, where)
        if name == "wan":
            self._refuse(where, "the WAN itself is called so")
        read = self._convert(table, _Node, where)
        programs = None if read.programs is None else tuple(self._programs(read.programs, where))
        return Node(number, name, read.kind, self._place(read.place, f"{where}.place"), programs)

    def _place(self, told: str | tuple[float, float] | None, where: str) -> Place | None:
        if told is None:
            return None
        if isinstance(told, str):
            return city(told) or self._refuse(
                where, f"{told!r} is no city of the table: give its [degrees north, degrees east]"
            )
        north, east = told
        if not (-90 <= north <= 90 and -180 <= east <= 180):
            self._refuse(where, f"[{north:g}, {east:g}] is no [degrees north, degrees east]")
        return Place(f"{north:g},{east:g}", north, east)

    def _programs(self, told: list[list[str] | str], where: str) -> list[tuple[str, ...]]:
        if len(told) > MOST_PROGRAMS:
            self._refuse(f"{where}.programs", f"there are {len(told)}: {MOST_PROGRAMS} at most")
        programs = []
        for number, program in enumerate(told):
            try:
                words = tuple(shlex.split(program) if isinstance(program, str) else program)
            except ValueError as error:
                self._refuse(f"{where}.programs[{number}]", f"{program!r}: {error}")
            if not words or not words[0]:
                self._refuse(f"{where}.programs[{number}]", "it is empty")
            programs.append(words)
        return programs

    def _links(self, read: _World, nodes: tuple[Node, ...], defaults: Shape) -> list[Link]:
        named = {node.name: node for node in nodes}
        links: dict[frozenset[str], Link] = {}
        for number, table in enumerate(read.links):
            where = f"links[{number}]"
            told = self._convert(table, _Link, where)
            for name in told.between:
                if name not in named:
                    self._refuse(f"{where}.between", f"no node is called {name!r}{_did_you_mean(name, nodes)}")
            pair = frozenset(told.between)
            if len(pair) == 1:
                self._refuse(f"{where}.between", f"it joins {told.between[0]!r} with itself")
            if pair in links:
                self._refuse(f"{where}.between", f"{' and '.join(told.between)} are joined already")
            if told.rtt_ms is not None and told.delay_ms is not None:
                self._refuse(where, "it has both rtt_ms and delay_ms: give one")
            if told.rtt_ms is not None:
                self._shape(Shape(delay_ms=told.rtt_ms), f"{where}.rtt_ms")
            half = Shape(delay_ms=None if told.rtt_ms is None else told.rtt_ms / 2)
            a, b = (named[name] for name in told.between)
            there = told.over(half).over(defaults).over(_by_distance(a, b, read.detour))
            back = told.back.over(there)
            links[pair] = Link(told.between, self._shape(there, where), self._shape(back, f"{where}.back"))
        if read.mesh:
            for a, b in itertools.combinations(nodes, 2):
                if a.place and b.place and frozenset((a.name, b.name)) not in links:
                    shape = defaults.over(_by_distance(a, b, read.detour))
                    links[frozenset((a.name, b.name))] = Link((a.name, b.name), shape, shape)
        return list(links.values())

    def _shape(self, shape: Shape, where: str) -> Shape:
        try:
            shape.told()
        except LabError as error:
            self._refuse(where, str(error))
        return shape

    def _check_name(self, name: str, where: str) -> None:
        if not _NAME.fullmatch(name):
            self._refuse(where, f"{name!r} is no name: {_NAME_RULE}")

    def _convert(self, table: object, kind: type[Told], where: str) -> Told:
        try:
            return msgspec.convert(table, kind)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            self._refuse(where + path.rstrip("`"), message[0].lower() + message[1:])

    def _refuse(self, where: str, why: str) -> NoReturn:
        place = f"{self._file}: {where.lstrip('.')}" if where else self._file
        raise LabError("lab_world", f"{place}: {why}")


def _by_distance(a: Node, b: Node, detour: float) -> Shape:
    """What a link has of itself: its delay, if both ends have a place."""
    return Shape(delay_ms=a.place.delay_ms(b.place, detour) if a.place and b.place else 0.0)


def _did_you_mean(name: str, nodes: tuple[Node, ...]) -> str:
    near = difflib.get_close_matches(name, [node.name for node in nodes], 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
