"""The course of changes towards edges of other machines, and the rollouts that there were."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from causeway.model.application import Application
from causeway.model.rollout import Changed, Course, Form, Hold, Rollout, RolloutState
from causeway.store.rows import RowError, from_row, to_row
from causeway.store.tables import access_rules, applications
from causeway.store.tables import rollout_holds as holds
from causeway.store.tables import rollouts as table

_KEPT = 200  # rollouts that have ended
_ENDED = (RolloutState.OPEN, RolloutState.HALTED)


def course(connection: Connection) -> Course:
    """Raises RowError: somebody else wrote there."""
    open_ = connection.execute(select(table).where(table.c.state == RolloutState.OPEN)).first()
    found = {row.application: _hold(row) for row in connection.execute(select(holds))}
    return Course(found, _rollout(open_) if open_ else None)


def save(connection: Connection, before: Course, after: Course, now_unix_ms: int, ended: RolloutState) -> None:
    """`ended`: what became of the rollouts that are neither open nor halted any more."""
    if before is after:
        return
    for id_ in before.holds.keys() | after.holds.keys():
        hold = after.holds.get(id_)
        if before.holds.get(id_) is hold:
            continue
        connection.execute(delete(holds).where(holds.c.application == id_))
        if hold:
            connection.execute(insert(holds).values(_hold_row(hold)))
    if after.rollout and after.rollout != before.rollout:
        put(connection, after.rollout)
    left = set(before.halted)
    if before.rollout and (after.rollout is None or after.rollout.number != before.rollout.number):
        left.add(before.rollout.number)
    over = {"state": ended, "ended_unix_ms": now_unix_ms}
    connection.execute(update(table).where(table.c.number.in_(left - after.halted)).values(over))


def halt(connection: Connection, number: int, reason: str, now_unix_ms: int) -> None:
    values = {"state": RolloutState.HALTED, "reason": reason, "ended_unix_ms": now_unix_ms}
    connection.execute(update(table).where(table.c.number == number).values(values))


def end(connection: Connection, number: int, state: RolloutState) -> None:
    """Say what became of one that is over."""
    connection.execute(update(table).where(table.c.number == number).values(state=state))


def put(connection: Connection, rollout: Rollout) -> None:
    connection.execute(delete(table).where(table.c.number == rollout.number))
    row: dict[str, Any] = asdict(rollout)
    for name in ("changes", "sizes", "edges"):
        row[name] = msgspec.json.encode(row[name]).decode()
    connection.execute(insert(table).values(row))
    oldest = table.c.state.not_in(_ENDED) & (table.c.number <= rollout.number - _KEPT)
    connection.execute(delete(table).where(oldest))


def next_number(connection: Connection) -> int:
    return (connection.execute(select(func.max(table.c.number))).scalar() or 0) + 1


def find(connection: Connection, number: int) -> Rollout | None:
    row = connection.execute(select(table).where(table.c.number == number)).first()
    return _rollout(row) if row else None


def recent(connection: Connection, most: int) -> list[Rollout]:
    """The newest first."""
    return [_rollout(row) for row in connection.execute(select(table).order_by(table.c.number.desc()).limit(most))]


def forget_rules(connection: Connection, after: Course) -> None:
    """Forget rules of applications that are neither stored nor held: with a hold, edges still serve by them."""
    of = access_rules.c.application
    is_gone = (of != "") & of.not_in(select(applications.c.id)) & of.not_in(list(after.holds))
    connection.execute(delete(access_rules).where(is_gone))


def _hold_row(hold: Hold) -> dict[str, object]:
    return {
        "application": hold.application_id,
        "before": _text(hold.before),
        "staged": _text(hold.staged),
        "rollout": hold.rollout,
        "is_halted": int(hold.is_halted),
        "is_meant": int(hold.is_meant),
    }


def _hold(row: Any) -> Hold:
    return Hold(
        row.application, _form(row.before), _form(row.staged), row.rollout, bool(row.is_halted), bool(row.is_meant)
    )


def _text(form: Form | None) -> str | None:
    return msgspec.json.encode(to_row(form.application)).decode() if form else None


def _form(text: str | None) -> Form | None:
    return Form.of(_application(text)) if text else None


def _application(text: str) -> Application:
    try:
        row = SimpleNamespace(**msgspec.json.decode(text))
    except (TypeError, ValueError) as error:
        raise RowError(f"an application that edges serve cannot be read ({error!r})") from error
    return from_row(row)


def _rollout(row: Any) -> Rollout:
    try:
        return Rollout(
            number=row.number,
            state=RolloutState(row.state),
            changes=tuple(Changed(**one) for one in msgspec.json.decode(row.changes)),
            began_unix_ms=row.began_unix_ms,
            sizes=tuple(msgspec.json.decode(row.sizes, type=list[int])),
            stage=row.stage,
            edges=tuple(msgspec.json.decode(row.edges, type=list[str])),
            reason=row.reason,
            ended_unix_ms=row.ended_unix_ms,
        )
    except (TypeError, ValueError) as error:
        raise RowError(f"rollout {row.number} cannot be read ({error!r})") from error
