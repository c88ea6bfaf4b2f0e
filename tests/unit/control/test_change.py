"""A change is one act: durable and serving, or it did not happen."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from memory_engine import MemoryEngine, on_exchange

from causeway.control import applications, zones
from causeway.control.plane import Plane
from causeway.control.queries import application_states, readiness
from causeway.control.state import Site, State
from causeway.model.application import Application
from causeway.model.document.application import parse_application
from causeway.model.origin_policy import OriginPolicy
from causeway.model.paths import Peer
from causeway.model.problem import Code, Problem
from causeway.model.snapshot import Settings
from causeway.store.database import Database

SITE = Site((ip_address("127.0.0.1"),), Settings(), OriginPolicy(allows_loopback=True))


class World:
    """A plane over a database on disk and an engine in memory."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "causeway.sqlite3"
        self.engine = MemoryEngine()
        self.start()
        self.zone = zones.create(self.plane, "example.net", zones.ensure_account(self.plane).id)

    def start(self) -> None:
        exchange, self.agent = on_exchange(self.engine)
        self.plane = Plane(SITE, exchange)
        self.plane.open(Database.open(self.path))

    def stop(self) -> None:
        if self.plane.database:
            self.plane.database.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def draft(self, port: int, **changes: Any) -> applications.Create:
        body = {
            "protocol": f"tcp/{port}",
            "dns": {"type": "CNAME", "name": "a.example.net"},
            "origin_direct": ["tcp://192.0.2.1:22"],
        }

        def make(application_id: str, now: datetime) -> Application:
            return parse_application(
                body | changes, application_id=application_id, zone_id=self.zone.id, created_on=now, now=now
            )

        return make

    def create(self, port: int, **changes: Any) -> Application:
        return applications.create(self.plane, self.zone.id, self.draft(port, **changes))

    def move(self, application: Application, port: int) -> Application:
        def draft(before: Application, now: datetime) -> Application:
            return replace(self.draft(port)(before.id, now), created_on=before.created_on)

        return applications.change(self.plane, self.zone.id, application.id, draft)

    def delete(self, application: Application) -> None:
        applications.delete(self.plane, self.zone.id, application.id)

    @property
    def stored(self) -> list[str]:
        connection = sqlite3.connect(self.path)
        try:
            return sorted(row[0] for row in connection.execute("select id from applications"))
        finally:
            connection.close()

    @contextmanager
    def unchanged(self, code: Code) -> Iterator[None]:
        """What is inside is refused, and store, edge and memory are as before."""
        before = (self.stored, self.engine.snapshot["applications"], dict(self.plane.pieces))
        with pytest.raises(Problem) as refused:
            yield
        assert refused.value.code is code
        assert (self.stored, self.engine.snapshot["applications"], self.plane.pieces) == before
        self.agree()

    def agree(self) -> None:
        assert self.stored == self.engine.served == sorted(self.plane.pieces)
        assert self.engine.applied == sorted(set(self.engine.applied)), "versions only grow"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.stop()


def test_what_other_edges_are_given_is_of_one_moment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a change the version is the new one and the applications are the old ones."""
    apply = world.engine.apply
    answers: list[State] = []
    asking = threading.Thread(target=lambda: answers.append(world.plane.state()))

    def slow(snapshot: bytes) -> bytes:
        asking.start()
        asking.join(0.2)
        assert not answers, "it waits for the change"
        return apply(snapshot)

    monkeypatch.setattr(world.engine, "apply", slow)
    told: list[int] = []
    world.plane.on_change = lambda: told.append(world.plane.state().version)
    application = world.create(1000)
    asking.join(5)
    assert [piece.application.id for piece in answers[0].pieces] == [application.id]
    assert answers[0].version == world.engine.snapshot["version"]
    assert told == [answers[0].version], "said once, when it is done"


def test_create_change_delete_reach_store_and_edge(world: World) -> None:
    first, second = world.create(1000), world.create(1001)
    world.agree()
    world.move(first, 1002)
    assert [a["edge_ports"]["first"] for a in world.engine.snapshot["applications"]] == [1002, 1001]
    world.delete(second)
    world.agree()
    assert world.stored == [first.id]
    world.create(1001)


def test_a_port_that_cannot_be_had_is_no_application(world: World) -> None:
    present = world.create(1000)
    world.engine.busy = {2000}
    with world.unchanged(Code.PORT):
        world.create(2000)
    with world.unchanged(Code.PORT):
        world.move(present, 2000)
    world.engine.busy = set()
    world.create(2000)
    world.agree()


def test_an_edge_that_refuses_keeps_what_it_has(world: World) -> None:
    present = world.create(1000)
    world.engine.fails_with = "edge_resources"
    with pytest.raises(Problem) as refused:
        world.create(1001)
    assert refused.value.code is Code.INTERNAL
    assert refused.value.side == "edge"
    assert world.stored == [present.id]
    assert readiness(world.plane), "the edge did not even take the old state back"
    world.engine.fails_with = None
    world.plane.settle()
    assert readiness(world.plane) is None
    world.create(1001)
    world.agree()


def test_a_commit_that_fails_is_taken_back_from_the_edge(world: World) -> None:
    present = world.create(1000)
    assert world.plane.database
    with world.plane.database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    with world.plane.database.write() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")  # the disk is full
    names = [f"{n:03}." * 50 + "example.net" for n in range(200)]
    with pytest.raises(Problem) as refused:
        for port, name in enumerate(names, 3000):
            draft = world.draft(port, dns={"name": name}, x_causeway={"name": "x" * 100})
            applications.create(world.plane, world.zone.id, draft)
    assert refused.value.code is Code.INTERNAL
    assert "full" in refused.value.message
    world.agree()
    assert present.id in world.stored
    with world.plane.database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    world.create(1001)
    world.agree()


def test_a_bug_in_the_middle_leaves_nothing_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.create(1000)
    with monkeypatch.context() as patch:
        patch.setattr("causeway.control.plane.sequences.set_snapshot_version", lambda *_: 1 / 0)
        with suppress(ZeroDivisionError):
            world.create(1001)
    world.agree()
    world.create(1001)
    world.agree()


def test_a_restart_serves_what_is_stored_with_a_newer_version(world: World) -> None:
    made = [world.create(port) for port in (1000, 1001, 1002)]
    version = world.engine.snapshot["version"]
    world.restart()
    world.agree()
    assert world.engine.snapshot["version"] > version
    assert [a["id"] for a in world.engine.snapshot["applications"]] == [a.id for a in made], "oldest first"


def test_an_edge_ahead_of_the_database_is_overtaken(world: World) -> None:
    world.create(1000)
    world.engine.snapshot["version"] += 1_000  # the database was restored from an old backup
    world.restart()
    world.create(1001)
    world.agree()


def test_what_was_served_but_not_committed_goes_with_the_restart(world: World) -> None:
    world.create(1000)
    world.engine.snapshot["applications"].append(world.engine.snapshot["applications"][0] | {"id": "f" * 32})
    world.restart()
    world.agree()


def test_a_hundred_changes_in_any_order_end_in_agreement(world: World) -> None:
    world.engine.busy = set(range(4000, 5000, 7))
    alive: list[Application] = []
    for step in range(100):
        with suppress(Problem):
            if step % 3 == 0 and alive:
                world.delete(alive.pop(step % len(alive)))
            elif step % 5 == 0 and alive:
                world.move(alive[0], 4000 + step * 13 % 997)
            else:
                alive.append(world.create(4000 + step * 11 % 997))
        world.agree()
    assert len(alive) > 10


def test_an_application_whose_address_is_gone_waits(world: World) -> None:
    made = world.create(1000)
    world.stop()
    exchange, _ = on_exchange(world.engine)
    world.plane = Plane(Site((ip_address("::1"),), Settings(), SITE.origins), exchange)
    world.plane.open(Database.open(world.path))
    [state] = application_states(world.plane)
    assert state["unserved"] is None, "dynamic addresses follow the edge"
    assert [listener["address"] for listener in state["listeners"]] == ["::1"]  # type: ignore[attr-defined]
    assert world.engine.served == [made.id]


@pytest.mark.parametrize("ports", ["4280", "4000-5000"])
def test_the_port_where_an_edge_listens_for_others_is_no_applications(world: World, ports: str) -> None:
    world.plane.peers = (Peer("local", "127.0.0.1:4280"),)
    with world.unchanged(Code.PORT):
        applications.create(world.plane, world.zone.id, world.draft(4280, protocol=f"tcp/{ports}", **to(ports)))
    world.create(4281)


def test_an_edge_that_nobody_knows_is_no_way(world: World) -> None:
    with world.unchanged(Code.INVALID_VALUE):
        world.create(4280, x_causeway={"paths": [["fra-1"]]})
    world.plane.peers = (Peer("fra-1", "203.0.113.7:4280"),)
    assert world.create(4280, x_causeway={"paths": [["fra-1"], ["local"]]}).extension.paths == (("fra-1",), ("local",))


def to(ports: str) -> dict[str, object]:
    return {"origin_direct": [f"tcp://192.0.2.1:{ports}"]}


def test_a_smart_zone_has_control_steer_what_can_be_and_says_so_to_the_edge(world: World) -> None:
    world.plane.site = replace(SITE, overlay="127.0.0.1:7843")
    world.plane.set_peers(())
    plain, named = world.create(2201), world.create(2202, x_causeway={"paths": [[]]})

    def steered() -> set[str]:
        return {one["id"] for one in world.engine.snapshot["applications"] if one.get("steered")}

    assert steered() == set()
    on = zones.set_smart_routing(world.plane, world.zone.id, is_on=True)
    assert steered() == {plain.id}, f"{named.id} says its ways itself"
    version = world.plane.version
    assert zones.set_smart_routing(world.plane, world.zone.id, is_on=True) == on
    assert world.plane.version == version, "what is so already is no change"
    later = world.create(2203)
    assert steered() == {plain.id, later.id}
    world.restart()
    assert world.plane.smart_zones == {world.zone.id}
    assert zones.smart_routing(world.plane, world.zone.id) == on
    world.plane.site = replace(SITE, overlay="127.0.0.1:7843")
    world.plane.set_peers(())
    assert steered() == {plain.id, later.id}
    zones.set_smart_routing(world.plane, world.zone.id, is_on=False)
    assert steered() == set()


def test_a_zone_is_not_smart_where_the_edge_has_refused_that(world: World) -> None:
    world.plane.site = replace(SITE, overlay="127.0.0.1:7843")
    world.create(2201)
    world.engine.fails_with = "snapshot_refused"
    with pytest.raises(Problem):
        zones.set_smart_routing(world.plane, world.zone.id, is_on=True)
    assert not zones.smart_routing(world.plane, world.zone.id).is_on
    assert world.plane.smart_zones == frozenset()


def test_a_zone_that_is_deleted_takes_its_settings_with_it(world: World) -> None:
    zones.set_smart_routing(world.plane, world.zone.id, is_on=True)
    zones.delete(world.plane, world.zone.id)
    again = zones.create(world.plane, "example.net", zones.ensure_account(world.plane).id)
    assert zones.smart_routing(world.plane, again.id).modified_on is None
