"""One change among thousands costs one encoding."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_change import World

from causeway.control import plane as plane_module


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.stop()


def test_one_change_encodes_one_application(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [world.create(port) for port in range(1000, 1050)]
    encoded: list[str] = []
    encode = plane_module.encode_application

    def counted(application: object, addresses: object) -> bytes:
        encoded.append("one")
        return encode(application, addresses)  # type: ignore[arg-type]

    monkeypatch.setattr(plane_module, "encode_application", counted)
    world.move(made[7], 2000)
    world.delete(made[8])
    world.create(1008)
    assert len(encoded) == 2
