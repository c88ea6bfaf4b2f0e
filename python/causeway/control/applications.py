"""Create, change and delete applications."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from causeway.control.plane import Plane, now
from causeway.control.rules import check
from causeway.control.state import Edit
from causeway.control.zones import zone_in
from causeway.model.application import Application
from causeway.model.problem import Code, Problem
from causeway.store import applications as stored
from causeway.store import repeats

# A client that got no answer asks again within seconds; after this long an identical request is a new one.
REPEAT_WINDOW = timedelta(minutes=10)

Create = Callable[[str, datetime], Application]
"""Makes the application from its id and the time."""
Change = Callable[[Application, datetime], Application]
"""Makes the new application from the present one and the time."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How the caller asks: with a key of his own, or announcing that he asks again."""

    key: str | None = None
    is_again: bool = False


def create(plane: Plane, zone_id: str, draft: Create, asking: Asking = Asking()) -> Application:
    """Create an application. A repeat of a request that has been served answers what that one made.

    Raises:
        Problem: nothing was changed.
    """
    made: list[Application] = []

    def write(connection: Connection) -> Edit | None:
        moment = now()
        application = draft(secrets.token_hex(16), moment)
        if earlier := _earlier(plane, connection, application, asking):
            made.append(earlier)
            return None
        check(plane, connection, application)
        stored.add(connection, application)
        if asking.key:
            served = repeats.Served(_fingerprint(application), application.id)
            repeats.remember(connection, _key(zone_id, asking.key), served, moment)
        made.append(application)
        return Edit(application.id, application)

    plane.change(write)
    return made[0]


def change(plane: Plane, zone_id: str, application_id: str, draft: Change, *, is_now: bool = False) -> Application:
    """Replace an application by what `draft` makes of the present one; what changes nothing touches nothing.

    `is_now`: on edges of other machines without stages.

    Raises:
        Problem: nothing was changed.
    """
    made: list[Application] = []

    def write(connection: Connection) -> Edit | None:
        before = application_in(connection, zone_id, application_id)
        after = _changed(plane, connection, before, draft)
        made.append(after)
        if after is before:
            return None
        stored.change(connection, after)
        return Edit(application_id, after, is_now)

    plane.change(write)
    return made[0]


def delete(plane: Plane, zone_id: str, application_id: str, asking: Asking = Asking(), *, is_now: bool = False) -> None:
    """Close an application's ports at once; its connections end as its policy says.

    `is_now`: on edges of other machines without stages.

    Raises:
        Problem: nothing was changed.
    """

    def write(connection: Connection) -> Edit | None:
        zone_in(connection, zone_id)
        key = f"deleted {zone_id} {application_id}"
        if asking.is_again and repeats.recall(connection, key, now()):
            return None
        application_in(connection, zone_id, application_id)
        stored.remove(connection, application_id)
        repeats.remember(connection, key, repeats.Served("", application_id), now())
        return Edit(application_id, None, is_now)

    plane.change(write)


def rehearse_create(plane: Plane, zone_id: str, draft: Create) -> Application:
    """Say what `create` would make and refuse what it would refuse, but for the edge's own answer."""
    with plane.reading() as connection:
        application = draft(secrets.token_hex(16), now())
        check(plane, connection, application)
    return application


def rehearse_change(plane: Plane, zone_id: str, application_id: str, draft: Change) -> Application:
    """Say what `change` would make and refuse what it would refuse, but for the edge's own answer."""
    with plane.reading() as connection:
        return _changed(plane, connection, application_in(connection, zone_id, application_id), draft)


def application_in(connection: Connection, zone_id: str, application_id: str) -> Application:
    """The application, or the Problem that there is none."""
    zone_in(connection, zone_id)
    found = stored.find(connection, zone_id, application_id)
    if found is None:
        raise Problem(
            Code.NOT_FOUND, f"this zone has no application {application_id}: list its applications to see their ids"
        )
    return found


def _changed(plane: Plane, connection: Connection, before: Application, draft: Change) -> Application:
    after = draft(before, now())
    if after.dns.type is not before.dns.type:
        raise Problem(
            Code.DNS_TYPE,
            f"dns.type cannot change from {before.dns.type} to {after.dns.type}: "
            "delete the application and create it again",
            pointer="/dns/type",
        )
    if replace(after, modified_on=before.modified_on) == before and not plane.pieces[before.id].unserved:
        return before
    check(plane, connection, after)
    return after


def _earlier(plane: Plane, connection: Connection, application: Application, asking: Asking) -> Application | None:
    """What an earlier try of the same request made: by its key, or for an announced repeat by being identical."""
    zone_in(connection, application.zone_id)
    moment = application.created_on
    if asking.key and (served := repeats.recall(connection, _key(application.zone_id, asking.key), moment)):
        found = stored.find(connection, application.zone_id, served.made)
        if found and served.asked == _fingerprint(application):
            return found
        why = "was used for another application" if found else f"made application {served.made}, which is deleted since"
        raise Problem(Code.CONFLICT, f"Idempotency-Key {asking.key!r} {why}: send a new key", side="client")
    if asking.is_again:
        for piece in plane.pieces.values():
            other = piece.application
            if other.created_on >= moment - REPEAT_WINDOW and _fingerprint(other) == _fingerprint(application):
                return other
    return None


def _key(zone_id: str, key: str) -> str:
    return f"create {zone_id} {key}"


def _fingerprint(application: Application) -> str:
    """The same for applications that differ only in what the server gave them."""
    epoch = datetime.min
    row = stored.to_row(replace(application, id="", created_on=epoch, modified_on=epoch))
    return repeats.digest(repr(sorted(row.items())))
