"""What is said of the present state: listeners port by port, readiness, and an edge that answers nonsense."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_change import World

from causeway.control.queries import application_states, edge_states, readiness

RANGES = [  # refused                      listeners of tcp/1000-1009
    ([], [(1000, 1009, "running")]),
    ([(1000, 1009)], [(1000, 1009, "refused")]),
    ([(1000, 1000)], [(1000, 1000, "refused"), (1001, 1009, "running")]),
    ([(1009, 1009)], [(1000, 1008, "running"), (1009, 1009, "refused")]),
    (
        [(1006, 1007), (1002, 1003)],
        [
            (1000, 1001, "running"),
            (1002, 1003, "refused"),
            (1004, 1005, "running"),
            (1006, 1007, "refused"),
            (1008, 1009, "running"),
        ],
    ),
    ([(1003, 1004), (1005, 1005)], [(1000, 1002, "running"), (1003, 1004, "refused"), (1005, 1005, "refused"),
                                    (1006, 1009, "running")]),
]  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize(("refused", "expected"), RANGES)
def test_a_range_is_told_port_by_port(
    world: World, refused: list[tuple[int, int]], expected: list[tuple[int, int, str]]
) -> None:
    made = world.create(1000, protocol="tcp/1000-1009", origin_direct=["tcp://192.0.2.1:2000-2009"])
    other = world.create(1010)
    look = world.engine.observe

    def observe(most: int) -> bytes:
        report = json.loads(look(most))
        report["refused"] = [
            {
                "application": made.id,
                "protocol": "tcp",
                "address": "127.0.0.1",
                "ports": {"first": first, "last": last},
                "state": "refused",
                "reason": {"code": "port_in_use", "side": "operator", "message": f"{first} is in use"},
            }
            for first, last in refused
        ]
        return json.dumps(report).encode()

    world.engine.observe = observe  # type: ignore[method-assign]
    states: dict[Any, Any] = {state["id"]: state["listeners"] for state in application_states(world.plane)}
    seen = [(found["ports"]["first"], found["ports"]["last"], found["state"]) for found in states[made.id]]
    assert seen == expected
    assert all(bool(found["reason"]) is (found["state"] == "refused") for found in states[made.id])
    assert [found["state"] for found in states[other.id]] == ["running"]
    assert readiness(world.plane) is None, "a port of somebody else does not make the edge unready"


def test_readiness_follows_the_edge(world: World) -> None:
    assert readiness(world.plane) is None
    world.engine.is_draining = True
    world.agent.observe()
    assert readiness(world.plane) == "the edge is draining"
    world.plane.unavailable = "the reason"
    assert readiness(world.plane) == "the reason"
    assert [edge["is_draining"] for edge in edge_states(world.plane)] == [True]


def test_an_edge_that_answers_nonsense_is_not_believed(world: World) -> None:
    present = world.create(1000)
    good = world.engine.apply

    def nonsense(snapshot: bytes) -> bytes:
        good(snapshot)
        return b'{"version": "one"}'

    world.engine.apply = nonsense  # type: ignore[method-assign]
    with pytest.raises(Exception, match="version"):
        world.create(1001)
    assert world.stored == [present.id]
    assert "ValidationError" in (readiness(world.plane) or "")
    world.engine.apply = good  # type: ignore[method-assign]
    world.plane.settle()
    assert readiness(world.plane) is None
    world.agree()
