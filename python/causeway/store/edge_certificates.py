"""Who was invited to be an edge, and which keys were certified. Times are in seconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from causeway.store.tables import edge_certificates as certificates
from causeway.store.tables import edge_invitations as invitations


@dataclass(frozen=True, slots=True)
class Invitation:
    id: str
    name: str
    expires_unix_s: int
    used_by: str | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    serial: str
    name: str
    public_key: str
    expires_unix_s: int


def invite(connection: Connection, invitation: Invitation) -> None:
    """Any earlier one of that name is none any more."""
    connection.execute(delete(invitations).where(invitations.c.name == invitation.name))
    row = {"id": invitation.id, "name": invitation.name, "expires_unix_s": invitation.expires_unix_s}
    connection.execute(insert(invitations).values(row))


def invitation(connection: Connection, number: str) -> Invitation | None:
    row = connection.execute(select(invitations).where(invitations.c.id == number)).one_or_none()
    return Invitation(row.id, row.name, row.expires_unix_s, row.used_by) if row else None


def use(connection: Connection, number: str, public_key: str) -> None:
    connection.execute(update(invitations).where(invitations.c.id == number).values(used_by=public_key))


def add(connection: Connection, certificate: Certificate, now_unix_s: int) -> None:
    """And forget those that have expired, and invitations."""
    connection.execute(delete(certificates).where(certificates.c.expires_unix_s < now_unix_s))
    connection.execute(delete(invitations).where(invitations.c.expires_unix_s < now_unix_s))
    row = {
        "serial": certificate.serial,
        "name": certificate.name,
        "public_key": certificate.public_key,
        "expires_unix_s": certificate.expires_unix_s,
    }
    connection.execute(insert(certificates).values(row))


def live(connection: Connection, name: str, now_unix_s: int) -> int:
    """How many certificates an edge of that name has that neither expired nor were revoked."""
    of = (certificates.c.name == name, certificates.c.expires_unix_s >= now_unix_s)
    counted = select(func.count()).where(*of, certificates.c.revoked_unix_s.is_(None))
    return connection.execute(counted).scalar_one()


def revoke(connection: Connection, name: str, now_unix_s: int) -> None:
    """All that it has, and its invitation."""
    connection.execute(delete(invitations).where(invitations.c.name == name))
    those = (certificates.c.name == name, certificates.c.revoked_unix_s.is_(None))
    connection.execute(update(certificates).where(*those).values(revoked_unix_s=now_unix_s))


def revoked(connection: Connection, now_unix_s: int) -> dict[str, int]:
    """Public keys that would be believed without this, and since when they are not."""
    those = (certificates.c.revoked_unix_s.is_not(None), certificates.c.expires_unix_s >= now_unix_s)
    return {row.public_key: row.revoked_unix_s for row in connection.execute(select(certificates).where(*those))}


def is_member(connection: Connection, name: str, now_unix_s: int) -> bool:
    """Whether an edge of that name is certified, or invited."""
    asked = select(invitations.c.id).where(invitations.c.name == name)
    return bool(live(connection, name, now_unix_s)) or connection.execute(asked).first() is not None
