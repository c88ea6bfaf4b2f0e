"""Any order of changes, restarts and failures: store, edge and memory agree as soon as the edge takes anything."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_change import World

from causeway.model.application import Application
from causeway.model.problem import Code, Problem

PORTS = st.integers(1000, 1012)
WHICH = st.integers(0, 12)


class Operator(RuleBasedStateMachine):
    """Keeps its own book of what must be there, from nothing but the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder)
        self.book: dict[str, Application] = {}

    def teardown(self) -> None:
        self.world.stop()
        shutil.rmtree(self.folder)

    def chosen(self, which: int) -> Application:
        return list(self.book.values())[which % len(self.book)]

    def expected(self, port: int, application: Application | None = None) -> Code | None:
        """The code with which the port will be refused, if any."""
        if self.world.engine.fails_with:
            return Code.INTERNAL
        others = [made.edge_ports.first for made in self.book.values() if made is not application]
        return Code.PORT if port in others or port in self.world.engine.busy else None

    @rule(port=PORTS)
    def create(self, port: int) -> None:
        expected = self.expected(port)
        try:
            made = self.world.create(port)
        except Problem as problem:
            assert expected
            assert problem.code in (expected, Code.PORT)
        else:
            assert expected is None
            self.book[made.id] = made

    @precondition(lambda self: self.book)
    @rule(port=PORTS, which=WHICH)
    def move(self, port: int, which: int) -> None:
        present = self.chosen(which)
        if port == present.edge_ports.first:
            assert self.world.move(present, port) == present, "nothing changed, nothing touched"
            return
        expected = self.expected(port, present)
        try:
            self.book[present.id] = self.world.move(present, port)
        except Problem as problem:
            assert expected
            assert problem.code in (expected, Code.PORT)
        else:
            assert expected is None

    @precondition(lambda self: self.book)
    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        present = self.chosen(which)
        try:
            self.world.delete(present)
        except Problem as problem:
            assert self.world.engine.fails_with
            assert problem.code is Code.INTERNAL
        else:
            del self.book[present.id]

    @rule(port=PORTS)
    def occupy(self, port: int) -> None:
        """Another program takes a port that is free."""
        if port not in {made.edge_ports.first for made in self.book.values()}:
            self.world.engine.busy.add(port)

    @rule()
    def free(self) -> None:
        self.world.engine.busy.clear()

    @rule()
    def fail(self) -> None:
        self.world.engine.fails_with = "edge_resources"

    @rule()
    def recover(self) -> None:
        self.world.engine.fails_with = None
        self.world.plane.settle()

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @invariant()
    def nothing_is_half_made(self) -> None:
        assert self.world.stored == sorted(self.book) == sorted(self.world.plane.pieces)
        stored = {key: piece.application for key, piece in self.world.plane.pieces.items()}
        assert stored == self.book
        if not self.world.plane.out_of_step:
            self.world.agree()
            served = {one["id"]: one["edge_ports"]["first"] for one in self.world.engine.snapshot["applications"]}
            assert served == {key: made.edge_ports.first for key, made in self.book.items()}


TestOperator = Operator.TestCase
TestOperator.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
