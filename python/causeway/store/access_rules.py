"""IP Access Rules in the database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, true, update

from causeway.model.access_rule import AccessRule, Level, Mode, Owner, Target, prefix_of
from causeway.store.rows import Row
from causeway.store.tables import access_rules, zones

_ORDER = {
    "configuration.target": access_rules.c.target,
    "configuration.value": access_rules.c.value,
    "mode": access_rules.c.mode,
}
ORDERS = tuple(_ORDER)


@dataclass(frozen=True, slots=True)
class RuleFilter:
    """None asks for nothing. `is_any`: one of the tests is enough. `notes` is looked for anywhere in them."""

    target: str | None = None
    value: str | None = None
    mode: str | None = None
    notes: str | None = None
    is_any: bool = False


def add(connection: Connection, rule: AccessRule) -> None:
    connection.execute(insert(access_rules).values(_row(rule)))


def change(connection: Connection, rule: AccessRule) -> None:
    connection.execute(update(access_rules).where(access_rules.c.id == rule.id).values(_row(rule)))


def remove(connection: Connection, rule_id: str) -> None:
    connection.execute(delete(access_rules).where(access_rules.c.id == rule_id))


def remove_all(connection: Connection, owner: Owner) -> None:
    connection.execute(delete(access_rules).where(_is_of(owner)))


def find(connection: Connection, owner: Owner, rule_id: str) -> AccessRule | None:
    row = connection.execute(select(access_rules).where(_is_of(owner), access_rules.c.id == rule_id)).first()
    return _rule(row) if row else None


def find_target(connection: Connection, owner: Owner, target: Target, value: str) -> AccessRule | None:
    """The owner's rule about exactly this."""
    chosen = select(access_rules).where(
        _is_of(owner), access_rules.c.target == target.value, access_rules.c.value == value
    )
    row = connection.execute(chosen).first()
    return _rule(row) if row else None


def count(connection: Connection, owner: Owner) -> int:
    return connection.execute(select(func.count()).select_from(access_rules).where(_is_of(owner))).scalar_one()


def page(
    connection: Connection,
    owner: Owner,
    wanted: RuleFilter,
    *,
    order: str | None,
    is_descending: bool,
    skip: int,
    most: int,
) -> tuple[list[AccessRule], int]:
    """A page of rules, oldest first unless told otherwise, and how many there are in all."""
    notes = func.instr(func.lower(access_rules.c.notes), (wanted.notes or "").lower()) > 0
    tests: list[ColumnElement[bool]] = [
        column == value
        for column, value in (
            (access_rules.c.target, wanted.target),
            (access_rules.c.value, wanted.value),
            (access_rules.c.mode, wanted.mode),
        )
        if value is not None
    ]
    tests += [notes] if wanted.notes is not None else []
    chosen = (or_ if wanted.is_any else and_)(*tests) if tests else true()
    query = select(access_rules).where(_is_of(owner), chosen)
    total = connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()
    column = _ORDER[order] if order else access_rules.c.created_on
    ordered = query.order_by(column.desc() if is_descending else column.asc(), access_rules.c.id)
    return [_rule(row) for row in connection.execute(ordered.offset(skip).limit(most))], total


def of_zone(connection: Connection, zone_id: str) -> Iterator[tuple[str, Mode, bool]]:
    """Prefix, mode and `drop_established` of every rule that holds in a zone: its own and its account's."""
    account = select(zones.c.account_id).where(zones.c.id == zone_id).scalar_subquery()
    columns = (access_rules.c.target, access_rules.c.value, access_rules.c.mode, access_rules.c.drop_established)
    query = select(*columns).where(
        or_(
            _is_of(Owner(Level.ZONE, zone_id)),
            and_(access_rules.c.level == Level.ACCOUNT.value, access_rules.c.owner_id == account),
        )
    )
    for row in connection.execute(query):
        yield prefix_of(Target(row.target), row.value), Mode(row.mode), bool(row.drop_established)


def _is_of(owner: Owner) -> ColumnElement[bool]:
    return and_(access_rules.c.level == owner.level.value, access_rules.c.owner_id == owner.id)


def _row(rule: AccessRule) -> dict[str, object]:
    return {
        "id": rule.id,
        "level": rule.owner.level.value,
        "owner_id": rule.owner.id,
        "target": rule.target.value,
        "value": rule.value,
        "mode": rule.mode.value,
        "notes": rule.notes,
        "drop_established": int(rule.drop_established),
        "created_on": rule.created_on.isoformat(timespec="microseconds"),
        "modified_on": rule.modified_on.isoformat(timespec="microseconds"),
    }


def _rule(row: Row) -> AccessRule:
    return AccessRule(
        id=row.id,
        owner=Owner(Level(row.level), row.owner_id),
        target=Target(row.target),
        value=row.value,
        mode=Mode(row.mode),
        notes=row.notes,
        created_on=datetime.fromisoformat(row.created_on),
        modified_on=datetime.fromisoformat(row.modified_on),
        drop_established=bool(row.drop_established),
    )
