"""Which form of each application edges of other machines get, and how that goes on.

Pure. What touches nothing that runs goes out at once: a new application on ports that nobody has there. What is changed
or deleted is held, and a rollout takes it out. Whatever an edge gets is free of collisions: all of it was stored at one
time, or was checked here against what was.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace

from causeway.model.application import Application, Connectivity
from causeway.model.paths import exits_of, on_paths
from causeway.model.rollout import Changed, Course, Form, Hold, Rollout
from causeway.model.smart import is_steered
from causeway.model.snapshot import at_addresses

Wanted = Mapping[str, Application]
"""What is stored and served, by id."""

_FAMILIES = {Connectivity.ALL: {4, 6}, Connectivity.IPV4: {4}, Connectivity.IPV6: {6}}
_MOST_NAMED = 50  # changes that a rollout tells one by one


def edited(course: Course, before: Wanted, after: Wanted, touched: Iterable[str]) -> Course:
    """`touched`: the applications in which the two may differ."""
    holds = dict(course.holds)
    for id_ in touched:
        hold = holds.get(id_)
        if hold and not hold.is_halted and not hold.waits:
            continue  # the rollout goes on with the form that it has; then there is another one
        accepted = hold.before if hold else _form(before.get(id_))
        _hold(holds, id_, accepted, _form(after.get(id_)))
    return replace(course, holds=_without_free(holds, after))


def _hold(holds: dict[str, Hold], id_: str, accepted: Form | None, target: Form | None) -> None:
    if is_same(accepted, target):
        holds.pop(id_, None)
    else:
        holds[id_] = Hold(id_, accepted)


def _without_free(holds: dict[str, Hold], wanted: Wanted) -> dict[str, Hold]:
    """Without those that are new, and in nobody's way on any edge."""
    kept = {}
    for id_, hold in holds.items():
        is_new = hold.waits and hold.before is None and id_ in wanted
        if not is_new or any(collide(wanted[id_], form.application) for form in _forms(holds, besides=id_)):
            kept[id_] = hold
    return kept


def ready(course: Course, wanted: Wanted) -> frozenset[str]:
    """What waits and can be taken out: nothing of it wants a port that a halted rollout keeps with somebody else."""
    waiting = {id_ for id_, hold in course.holds.items() if hold.waits}
    kept = {id_: hold.before for id_, hold in course.holds.items() if id_ not in waiting}
    while True:
        blocked = {
            id_
            for id_ in waiting
            if id_ in wanted
            and any(form and collide(wanted[id_], form.application) for key, form in kept.items() if key != id_)
        }
        if not blocked:
            return frozenset(waiting)
        waiting -= blocked
        kept |= {id_: course.holds[id_].before for id_ in blocked}


def begun(course: Course, wanted: Wanted, ids: frozenset[str], rollout: Rollout) -> Course:
    holds = dict(course.holds)
    for id_ in ids:
        holds[id_] = replace(holds[id_], staged=_form(wanted.get(id_)), rollout=rollout.number)
    return Course(holds, rollout)


def accepted(course: Course, wanted: Wanted, ids: Iterable[str]) -> Course:
    """These concern no edge."""
    gone = set(ids)
    kept = {id_: hold for id_, hold in course.holds.items() if id_ not in gone}
    return replace(course, holds=_without_free(kept, wanted))


def passed(course: Course, wanted: Wanted) -> Course:
    """The open rollout is everywhere; what was changed meanwhile waits for the next one."""
    holds = dict(course.holds)
    for id_, hold in course.holds.items():
        if _is_of_open(hold, course):
            _hold(holds, id_, hold.staged, _form(wanted.get(id_)))
    return Course(_without_free(holds, wanted))


def halted(course: Course, wanted: Wanted) -> Course:
    """The open rollout did harm; what was changed meanwhile is tried without it."""
    holds = dict(course.holds)
    for id_, hold in course.holds.items():
        if _is_of_open(hold, course):
            target = _form(wanted.get(id_))
            if is_same(hold.staged, target):
                holds[id_] = replace(hold, is_halted=True)
            else:
                _hold(holds, id_, hold.before, target)
    return Course(_without_free(holds, wanted))


def resumed(course: Course, number: int) -> Course:
    """What a halted rollout is about waits for its turn again."""
    holds = dict(course.holds)
    for id_, hold in course.holds.items():
        if hold.is_halted and hold.rollout == number:
            holds[id_] = Hold(id_, hold.before, is_meant=True)
    return replace(course, holds=holds)


def released(course: Course, wanted: Wanted, ids: Iterable[str]) -> Course:
    """These go to all edges at once, and with them what is in their way there."""
    gone = set(ids)
    while True:
        targets = [wanted[id_] for id_ in gone if id_ in wanted]
        more = {
            id_
            for id_, hold in course.holds.items()
            if id_ not in gone
            and any(form and collide(form.application, one) for form in (hold.before, hold.staged) for one in targets)
        }
        if not more:
            break
        gone |= more
    holds = _without_free({id_: hold for id_, hold in course.holds.items() if id_ not in gone}, wanted)
    is_left = any(_is_of_open(hold, course) for hold in holds.values())
    return Course(holds, course.rollout if is_left else None)


def forms(course: Course, wanted: Iterable[Form], *, is_reached: bool) -> list[Form]:
    """What an edge gets, who came first at the beginning; `is_reached`: by the open rollout."""
    if not course.holds:
        return list(wanted)
    got = [form for form in wanted if form.application.id not in course.holds]
    for hold in course.holds.values():
        form = hold.staged if is_reached and _is_of_open(hold, course) else hold.before
        if form:
            got.append(form)
    return sorted(got, key=lambda form: (form.application.created_on, form.application.id))


Exits = Mapping[str, tuple[frozenset[str] | None, Form]]
"""By application: the edges where flows of others may end (None: all), and as what, where an edge has no other form."""


def exits(course: Course, wanted: Iterable[Form], smart_zones: frozenset[str] = frozenset()) -> Exits:
    """Of any form that some edge has or gets.

    So an edge knows what will be handed to it before another one does that, and until the last one has ceased to.
    """
    found = {form.application.id: [form] for form in wanted if _leads_elsewhere(form, smart_zones)}
    for id_, hold in course.holds.items():
        held = [form for form in (hold.staged, hold.before) if form and _leads_elsewhere(form, smart_zones)]
        if held:
            found.setdefault(id_, []).extend(held)
    return {id_: (_ends(of, smart_zones), of[0]) for id_, of in found.items()}


def _leads_elsewhere(form: Form, smart_zones: frozenset[str]) -> bool:
    return is_steered(form.application, smart_zones) or bool(form.application.extension.paths)


def _ends(forms: list[Form], smart_zones: frozenset[str]) -> frozenset[str] | None:
    if any(is_steered(form.application, smart_zones) for form in forms):
        return None
    return exits_of(form.application.extension.paths for form in forms)


def ends_at(exits: Exits, name: str, id_: str) -> bool:
    ends = exits[id_][0] if id_ in exits else frozenset()
    return ends is None or name in ends


def handed_over(
    exits: Exits, name: str, has: Container[str], smart_zones: frozenset[str] = frozenset()
) -> Iterator[bytes]:
    """What ends at the edge `name` for others alone: encoded, of applications besides those that it has."""
    for id_, (_, form) in exits.items():
        if id_ not in has and ends_at(exits, name, id_):
            is_smart = is_steered(form.application, smart_zones)
            yield on_paths(at_addresses(form.encoded, ()), (), name, is_last=True, is_steered=is_smart)


def changes(course: Course, wanted: Wanted, ids: Iterable[str]) -> tuple[Changed, ...]:
    """In words of people, as many as somebody reads."""
    return tuple(_changed(course.holds[id_], wanted.get(id_)) for id_ in sorted(ids)[:_MOST_NAMED])


def _changed(hold: Hold, target: Application | None) -> Changed:
    known = target or (hold.before.application if hold.before else None)
    name = (known.extension.name or known.dns.name) if known else hold.application_id
    how = "deleted" if target is None else "created" if hold.before is None else "changed"
    return Changed(hold.application_id, name, how)


def collide(one: Application, other: Application) -> bool:
    """Whether there may be an edge on which they want the same port."""
    if one.id == other.id or one.transport is not other.transport or not one.edge_ports.overlaps(other.edge_ports):
        return False
    if one.edge_ips.is_static and other.edge_ips.is_static:
        return bool(set(one.edge_ips.static) & set(other.edge_ips.static))
    return bool(_families(one) & _families(other))


def _families(application: Application) -> set[int]:
    of = application.edge_ips
    return {address.version for address in of.static} if of.is_static else _FAMILIES[of.connectivity]


def is_same(one: Form | None, other: Form | None) -> bool:
    return one.is_same(other) if one and other else one is other


def _is_of_open(hold: Hold, course: Course) -> bool:
    return course.rollout is not None and hold.rollout == course.rollout.number and not hold.is_halted


def _form(application: Application | None) -> Form | None:
    return Form.of(application) if application else None


def _forms(holds: Mapping[str, Hold], *, besides: str) -> Iterator[Form]:
    for id_, hold in holds.items():
        if id_ != besides:
            yield from (form for form in (hold.before, hold.staged) if form)
