"""One address in two PoPs, through real BIRDs: who serves is announced, who does not is not."""

import os
import signal
from collections.abc import Iterator

import pytest
from support.anycast import World, soon
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs


@pytest.fixture(scope="module")
def world(namespaces: Namespaces, module_programs: Programs) -> Iterator[World]:
    made = World(namespaces, module_programs)
    yield made
    made.close()


def test_it_is_announced_once_the_edge_serves(world: World) -> None:
    ams, fra = world.pops.values()
    ams.edge.start()
    eventually(ams.include.exists)
    assert world.ways() == []
    ams.serve()
    eventually(lambda: world.ways() == ["ams"], 10)
    fra.serve()
    eventually(lambda: world.ways() == ["ams", "fra"], 10)
    print(world.routes())
    assert world.ask() == "ams"


@pytest.fixture
def both(world: World) -> World:
    """Both PoPs announce, and the nearer one is taken."""
    for pop in world.pops.values():
        if not pop.edge.is_served:
            pop.heal()
    eventually(lambda: world.ways() == ["ams", "fra"], 30)
    return world
