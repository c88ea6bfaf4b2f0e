"""IP Access Rules in the database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, true, update

from causeway.model.access_rule import AccessRule, Compiled, Level, Mode, Owner, Target
from causeway.model.application import Ports
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


def find_any(connection: Connection, rule_id: str) -> AccessRule | None:
    """The rule, whoever has it."""
    row = connection.execute(select(access_rules).where(access_rules.c.id == rule_id)).first()
    return _rule(row) if row else None


def find_same(connection: Connection, rule: AccessRule) -> AccessRule | None:
    """Another rule of the owner about exactly this."""
    wanted = _row(rule)
    same = [access_rules.c[name] == wanted[name] for name in ("target", "value", "application", "ports", "dry_run")]
    row = connection.execute(
        select(access_rules).where(_is_of(rule.owner), access_rules.c.id != rule.id, *same)
    ).first()
    return _rule(row) if row else None


def count_naming(connection: Connection, target: Target, value: str | None = None) -> int:
    """How many rules, whoever has them, name this target, and this value of it."""
    chosen = select(func.count()).select_from(access_rules).where(access_rules.c.target == target.value)
    return connection.execute(chosen if value is None else chosen.where(access_rules.c.value == value)).scalar_one()


def remove_expired(connection: Connection, now: datetime) -> int:
    """Delete rules whose time has passed; answers how many."""
    moment = _time(now)
    is_over = and_(access_rules.c.expires_on != "", access_rules.c.expires_on <= moment)
    return connection.execute(delete(access_rules).where(is_over)).rowcount


def next_expiry(connection: Connection) -> datetime | None:
    found = connection.execute(select(func.min(access_rules.c.expires_on)).where(access_rules.c.expires_on != ""))
    text = found.scalar()
    return datetime.fromisoformat(text) if text else None


def count(connection: Connection, owner: Owner) -> int:
    return connection.execute(select(func.count()).select_from(access_rules).where(_is_of(owner))).scalar_one()


def page(
    connection: Connection,
    owner: Owner | None,
    wanted: RuleFilter,
    *,
    order: str | None,
    is_descending: bool,
    skip: int,
    most: int,
) -> tuple[list[AccessRule], int]:
    """A page of rules, oldest first unless told otherwise, and how many there are in all. No owner: everybody's."""
    notes = func.lower(access_rules.c.notes).contains((wanted.notes or "").lower(), autoescape=True)
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
    query = select(access_rules).where(_is_of(owner) if owner else true(), chosen)
    total = connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()
    column = _ORDER[order] if order else access_rules.c.created_on
    ordered = query.order_by(column.desc() if is_descending else column.asc(), access_rules.c.id)
    return [_rule(row) for row in connection.execute(ordered.offset(skip).limit(most))], total


def of_zone(connection: Connection, zone_id: str) -> Iterator[Compiled]:
    """Every rule that holds in a zone: its own and its account's."""
    account = select(zones.c.account_id).where(zones.c.id == zone_id).scalar_subquery()
    query = select(access_rules).where(
        or_(
            _is_of(Owner(Level.ZONE, zone_id)),
            and_(access_rules.c.level == Level.ACCOUNT.value, access_rules.c.owner_id == account),
        )
    )
    for row in connection.execute(query):
        yield Compiled(
            row.id,
            Target(row.target),
            row.value,
            Mode(row.mode),
            bool(row.drop_established),
            row.application or None,
            _ports(row.ports),
            bool(row.dry_run),
        )


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
        "created_on": _time(rule.created_on),
        "modified_on": _time(rule.modified_on),
        "application": rule.application or "",
        "ports": str(rule.ports) if rule.ports else "",
        "dry_run": int(rule.is_dry_run),
        "expires_on": _time(rule.expires_on) if rule.expires_on else "",
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
        application=row.application or None,
        ports=_ports(row.ports),
        is_dry_run=bool(row.dry_run),
        expires_on=datetime.fromisoformat(row.expires_on) if row.expires_on else None,
    )


def _ports(text: str) -> Ports | None:
    first, _, last = text.partition("-")
    return Ports(int(first), int(last or first)) if text else None


def _time(moment: datetime) -> str:
    """Sorts as the moments do: all are in UTC."""
    return moment.isoformat(timespec="microseconds")
