"""Edges of other machines: invited, certified, certified again in time, and revoked.

An invitation lets one key in, once. What was granted is in the database before the edge hears of it, so that it can be
revoked whatever becomes of the answer.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import Connection

from causeway.control.plane import Plane
from causeway.exchange import authority as signing
from causeway.exchange.authority import Authority, Unacceptable
from causeway.exchange.identity import Identity
from causeway.exchange.link import Unreachable
from causeway.exchange.nats_control import NotGranted
from causeway.exchange.words import Granted
from causeway.model.edge import is_edge_name
from causeway.model.problem import Code, Problem
from causeway.store import edge_certificates as stored
from causeway.store.edge_certificates import Certificate, Invitation

log = logging.getLogger(__name__)

_MOST_LIVE = 24  # certificates of one edge: it asks once a day, and they live a week


@dataclass(frozen=True, slots=True)
class Registrar:
    """See `nats_control.Registry`."""

    plane: Plane
    authority: Authority

    def enrol(self, invitation: str, request: str) -> Granted:
        with self.plane.writing() as connection:
            now = int(time.time())
            found = stored.invitation(connection, invitation)
            if found is None or found.expires_unix_s < now:
                raise self._refusal(invitation, "this invitation has expired or was withdrawn")
            certified = self._certified(found.name, request)
            if found.used_by is not None:
                raise self._refusal(found.name, f"the invitation of {found.name} was used already")
            stored.use(connection, invitation, certified.public_key)
            self._keep(connection, found.name, certified, now)
        log.info("edge %s has joined, certificate %s", found.name, certified.serial)
        return Granted(certified.certificate, certified.jwt)

    def renew(self, name: str, request: str) -> Granted:
        with self.plane.writing() as connection:
            now = int(time.time())
            live = stored.live(connection, name, now)
            if not live:
                raise self._refusal(name, f"{name} is no edge of this network")
            if live >= _MOST_LIVE:
                raise self._refusal(name, f"{name} has {live} certificates: it asks for more than it can use")
            certified = self._certified(name, request)
            self._keep(connection, name, certified, now)
        log.info("edge %s is certified again, certificate %s", name, certified.serial)
        return Granted(certified.certificate, certified.jwt)

    def account_jwt(self) -> str:
        try:
            with self.plane.reading() as connection:
                return self.authority.account_jwt(stored.revoked(connection, int(time.time())))
        except Problem as error:
            raise Unreachable(error.message) from error

    def system(self) -> Identity:
        return self.authority.system()

    def _certified(self, name: str, request: str) -> signing.Certified:
        try:
            return self.authority.certify(name, request)
        except Unacceptable as error:
            raise self._refusal(name, str(error)) from error

    @staticmethod
    def _keep(connection: Connection, name: str, certified: signing.Certified, now_unix_s: int) -> None:
        row = Certificate(certified.serial, name, certified.public_key, certified.expires_unix_s)
        stored.add(connection, row, now_unix_s)

    @staticmethod
    def _refusal(who: str, why: str) -> NotGranted:
        log.warning("no certificate for %s: %s", who, why)
        return NotGranted(f"{why}; causeway invite makes a new one")


def invite(plane: Plane, name: str) -> Identity:
    """Make an invitation for an edge of that name: it lets one machine in, once, within the hour.

    Raises:
        Problem: no edge may be called so, or nothing is certified here.
    """
    authority = _authority(plane)
    if not is_edge_name(name):
        raise Problem(
            Code.INVALID_VALUE, f"{name[:64]!r}: an edge is called by 1 to 32 of a-z, 0-9 and inner hyphens; not local"
        )
    number = secrets.token_hex(16)
    with plane.writing() as connection:
        stored.invite(connection, Invitation(number, name, int(time.time()) + signing.INVITED_S))
    log.info("edge %s is invited", name)
    return authority.invitation(number, name)


def revoke(plane: Plane, name: str) -> bool:
    """Have an edge be none any more, with all its certificates; answer whether nats-server has heard of it.

    Raises:
        Problem: there is no such edge.
    """
    _authority(plane)
    assert plane.fleet
    known, now = {edge.name for edge in plane.fleet.exchange.edges()}, int(time.time())
    with plane.writing() as connection:
        if not stored.is_member(connection, name, now) and name not in known:
            raise Problem(Code.NOT_FOUND, f"there is no edge {name[:64]!r}, nor was one invited")
        stored.revoke(connection, name, now)
    try:
        plane.fleet.forget(name)
    except Unreachable as error:
        log.warning("edge %s is revoked, and nats-server hears of it at the next connection: %s", name, error)
        return False
    log.info("edge %s is revoked", name)
    return True


def _authority(plane: Plane) -> Authority:
    if plane.fleet is None or plane.fleet.authority is None:
        raise Problem(
            Code.NOT_PERMITTED,
            "this control certifies no edges: start it with --exchange tls://HOST:PORT and without a token of your own",
        )
    return plane.fleet.authority
