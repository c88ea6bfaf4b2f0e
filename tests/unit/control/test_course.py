"""Which form of an application edges get, step by step; what an edge would have never collides."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from causeway.control import course as courses
from causeway.model.application import (
    Application,
    DirectOrigin,
    Dns,
    DnsType,
    EdgeIps,
    Extension,
    Ports,
    Transport,
)
from causeway.model.rollout import Course, Form, Rollout, RolloutState

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def app(name: str, port: int, origin: int = 1, **changes: Any) -> Application:
    made = Application(
        id=name,
        zone_id="z",
        dns=Dns(DnsType.CNAME, f"{name}.example.net"),
        transport=Transport.TCP,
        edge_ports=Ports(port, port),
        origins=(DirectOrigin(ip_address("192.0.2.1"), Ports(origin, origin)),),
        created_on=EPOCH + timedelta(seconds=ord(name[0])),
        modified_on=EPOCH,
    )
    return replace(made, **changes)


class World:
    """What is stored, and its course; every step checks that no edge is given what collides."""

    def __init__(self, *stored: Application) -> None:
        self.wanted = {one.id: one for one in stored}
        self.course = Course()
        self.number = 0

    def edit(self, *changed: Application, deleted: str = "", is_now: bool = False) -> None:
        before = dict(self.wanted)
        self.wanted |= {one.id: one for one in changed}
        self.wanted.pop(deleted, None)
        touched = [one.id for one in changed] + [deleted] * bool(deleted)
        self.go(courses.edited(self.course, before, self.wanted, touched))
        if is_now:
            self.go(courses.released(self.course, self.wanted, touched))

    def go(self, course: Course) -> None:
        self.course = course
        for is_reached in (False, True):
            got = [form.application for form in self.forms(is_reached)]
            assert len({one.id for one in got}) == len(got)
            assert not [(one.id, other.id) for one in got for other in got if courses.collide(one, other)]

    def forms(self, is_reached: bool) -> list[Form]:
        return courses.forms(self.course, [Form.of(one) for one in self.wanted.values()], is_reached=is_reached)

    def got(self, *, is_reached: bool = False) -> dict[str, tuple[int, int]]:
        """Port and origin of each application, on an edge."""
        found = [form.application for form in self.forms(is_reached)]
        return {one.id: (one.edge_ports.first, one.origins[0].ports.first) for one in found}  # type: ignore[index]

    def begin(self) -> frozenset[str]:
        ids = courses.ready(self.course, self.wanted)
        if ids:
            self.number += 1
            rollout = Rollout(self.number, RolloutState.OPEN, courses.changes(self.course, self.wanted, ids), 0)
            self.go(courses.begun(self.course, self.wanted, ids, rollout))
        return ids


def test_what_is_new_goes_out_at_once_and_what_is_changed_or_deleted_waits() -> None:
    world = World(app("a", 1), app("b", 2))
    world.edit(app("c", 3))
    assert (world.got(), world.course.holds) == ({"a": (1, 1), "b": (2, 1), "c": (3, 1)}, {})
    world.edit(app("a", 1, origin=9))
    world.edit(deleted="b")
    assert world.got() == world.got(is_reached=True) == {"a": (1, 1), "b": (2, 1), "c": (3, 1)}
    assert world.begin() == {"a", "b"}
    assert world.got() == {"a": (1, 1), "b": (2, 1), "c": (3, 1)}
    assert world.got(is_reached=True) == {"a": (1, 9), "c": (3, 1)}
    world.go(courses.passed(world.course, world.wanted))
    assert (world.got(), world.course) == ({"a": (1, 9), "c": (3, 1)}, Course())


def test_what_no_edge_can_tell_apart_is_no_change() -> None:
    world = World(app("a", 1))
    world.edit(app("a", 1, modified_on=EPOCH + timedelta(1)))
    assert world.course == Course()
    world.edit(app("a", 1, edge_ips=EdgeIps(static=(ip_address("192.0.2.9"),))))
    assert set(world.course.holds) == {"a"}
    world.edit(app("a", 1))
    assert world.course == Course(), "it is as it was"


def over(*paths: tuple[str, ...]) -> Extension:
    return Extension(paths=paths, stated=frozenset({"paths"}))


def test_the_last_edge_of_a_path_knows_before_anybody_takes_it_and_until_the_last_has_left_it() -> None:
    world = World(app("a", 1))

    def exits() -> set[str]:
        found = courses.exits(world.course, [Form.of(one) for one in world.wanted.values()])
        return set(found["a"][0]) if "a" in found else set()

    def paths(*, is_reached: bool) -> list[tuple[str, ...]]:
        return [path for form in world.forms(is_reached) for path in form.application.extension.paths]

    world.edit(app("a", 1, extension=over(("fra",))))
    assert (paths(is_reached=False), exits()) == ([], {"fra"}), "held, and fra is prepared"
    world.begin()
    assert (paths(is_reached=False), paths(is_reached=True), exits()) == ([], [("fra",)], {"fra"})
    world.go(courses.passed(world.course, world.wanted))
    world.edit(app("a", 1, extension=over(("ams",))))
    assert (paths(is_reached=False), exits()) == ([("fra",)], {"ams", "fra"}), "nobody has left fra yet"
    world.begin()
    world.go(courses.passed(world.course, world.wanted))
    assert (paths(is_reached=False), exits()) == ([("ams",)], {"ams"})
    world.edit(deleted="a")
    assert exits() == {"ams"}, "where it is not deleted yet, its flows go on"
    [encoded] = courses.handed_over(courses.exits(world.course, []), "ams", ())
    assert json.loads(encoded)["exit"] is True and json.loads(encoded)["edge_addresses"] == []
    world.begin()
    world.go(courses.passed(world.course, world.wanted))
    assert exits() == set()


def test_a_change_of_what_is_under_way_is_the_next_rollout_and_waits_for_one_alone() -> None:
    world = World(app("a", 1))
    world.edit(app("a", 1, origin=2))
    world.begin()
    for origin in range(3, 100):
        world.edit(app("a", 1, origin=origin))
        assert world.got(is_reached=True) == {"a": (1, 2)}
        assert world.got() == {"a": (1, 1)}
    world.go(courses.passed(world.course, world.wanted))
    assert world.got() == {"a": (1, 2)}
    assert world.begin() == {"a"}
    assert world.got(is_reached=True) == {"a": (1, 99)}


def test_a_new_application_waits_for_its_port_and_goes_with_who_leaves_it() -> None:
    world = World(app("a", 1))
    world.edit(deleted="a")
    world.edit(app("n", 1, origin=5))
    assert world.got() == {"a": (1, 1)}
    assert world.begin() == {"a", "n"}
    assert world.got(is_reached=True) == {"n": (1, 5)}
    world.edit(app("m", 2))
    assert world.got() == {"a": (1, 1), "m": (2, 1)}
    assert [change.how for change in world.course.rollout.changes] == ["deleted", "created"]  # type: ignore[union-attr]


def test_a_halted_rollout_keeps_its_own_back_and_whoever_wants_its_ports() -> None:
    world = World(app("a", 1), app("b", 2), app("c", 3))
    world.edit(app("a", 11))
    world.begin()
    world.go(courses.halted(world.course, world.wanted))
    assert world.course.halted == {1}
    assert world.begin() == frozenset()
    world.edit(app("n", 1))
    world.edit(app("b", 2, origin=9))
    world.edit(app("c", 3, origin=9))
    assert world.got() == {"a": (1, 1), "b": (2, 1), "c": (3, 1)}
    assert world.begin() == {"b", "c"}
    assert world.got(is_reached=True) == {"a": (1, 1), "b": (2, 9), "c": (3, 9)}
    world.go(courses.passed(world.course, world.wanted))
    assert world.begin() == frozenset(), "n wants a port of a"
    world.go(courses.resumed(world.course, 1))
    assert world.begin() == {"a", "n"}
    assert world.got(is_reached=True)["n"] == (1, 1)


def test_a_fix_of_what_was_halted_is_tried_without_being_resumed() -> None:
    world = World(app("a", 1))
    world.edit(app("a", 1, origin=2))
    world.begin()
    world.edit(app("a", 1, origin=3))
    world.go(courses.halted(world.course, world.wanted))
    assert (world.course.halted, world.got()) == (frozenset(), {"a": (1, 1)})
    world.begin()
    world.go(courses.halted(world.course, world.wanted))
    assert world.course.halted == {2}
    world.edit(app("a", 1, origin=4))
    assert world.begin() == {"a"}
    world.go(courses.halted(world.course, world.wanted))
    world.edit(app("a", 1, origin=1))
    assert world.course == Course(), "it is as it was before all of that"


def test_what_is_pushed_takes_along_what_is_in_its_way() -> None:
    world = World(app("a", 1), app("b", 2), app("c", 3))
    world.edit(app("a", 11))
    world.edit(app("b", 1))
    world.edit(app("c", 3, origin=9))
    world.begin()
    world.go(courses.released(world.course, world.wanted, ["b"]))
    assert world.got() == {"a": (11, 1), "b": (1, 1), "c": (3, 1)}
    assert world.course.rollout is not None, "c is still under way"
    world.go(courses.released(world.course, world.wanted, ["c"]))
    assert (world.course, world.got()["c"]) == (Course(), (3, 9))


def test_a_change_now_is_everywhere_whatever_was_under_way() -> None:
    world = World(app("a", 1))
    world.edit(app("a", 11))
    world.begin()
    world.edit(app("a", 21), is_now=True)
    assert (world.got(), world.course) == ({"a": (21, 1)}, Course())


@pytest.mark.parametrize(
    ("one", "other", "is_so"),
    [
        (app("a", 1), app("b", 1), True),
        (app("a", 1), app("a", 1), False),
        (app("a", 1), app("b", 2), False),
        (app("a", 1), app("b", 1, transport=Transport.UDP), False),
        (app("a", 1, edge_ports=Ports(1, 5)), app("b", 5), True),
        (app("a", 1, edge_ips=EdgeIps(static=(ip_address("192.0.2.1"),))), app("b", 1), True),
        (
            app("a", 1, edge_ips=EdgeIps(static=(ip_address("192.0.2.1"),))),
            app("b", 1, edge_ips=EdgeIps(static=(ip_address("192.0.2.2"),))),
            False,
        ),
    ],
)
def test_who_wants_the_same_port_somewhere(one: Application, other: Application, is_so: bool) -> None:
    assert courses.collide(one, other) is courses.collide(other, one) is is_so


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_no_edge_gets_what_collides_and_all_have_what_is_stored_in_the_end(seed: int) -> None:
    chance = random.Random(seed)
    world = World()
    names = "abcdefg"
    for _ in range(200):
        taken = {one.edge_ports.first: one.id for one in world.wanted.values()}
        match chance.randrange(8):
            case 0 | 1 | 2 | 3:
                name, port = chance.choice(names), chance.randrange(9)
                if taken.get(port, name) == name:  # else the API refuses it
                    world.edit(app(name, port, chance.randrange(3)), is_now=chance.random() < 0.1)
            case 4 if world.wanted:
                world.edit(deleted=chance.choice(sorted(world.wanted)))
            case 5 if world.course.rollout is None:
                world.begin()
            case 6 if world.course.rollout:
                ending = courses.halted if chance.random() < 0.5 else courses.passed
                world.go(ending(world.course, world.wanted))
            case 7 if world.course.halted:
                number = chance.choice(sorted(world.course.halted))
                world.go(courses.resumed(world.course, number))
    for number in sorted(world.course.halted):
        world.go(courses.resumed(world.course, number))
    for _ in range(2):
        if world.course.rollout or world.begin():
            world.go(courses.passed(world.course, world.wanted))
    assert world.course == Course()
    assert world.got() == {one.id: (one.edge_ports.first, one.origins[0].ports.first) for one in world.wanted.values()}  # type: ignore[index]
