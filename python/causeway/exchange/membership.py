"""An edge among others: it asks control to certify a key of its own, first with an invitation, then in good time again.

Each time with a new key, which never leaves this machine. Until control has answered, what it has stays as it is.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import msgspec
from nats.errors import NoRespondersError

from causeway.exchange import identity, nats_jwt, words
from causeway.exchange.identity import Identity
from causeway.exchange.link import NatsClient, Unreachable

log = logging.getLogger(__name__)

_ANSWER_S = 10.0
_RENEWED_AT = 1 / 7  # of its life: there is time for control to come back


class Refused(Exception):
    """Control has said no, and will again; the message says why."""


class Membership:
    """The identity of an edge as it is now, and the file that it is kept in."""

    def __init__(self, path: Path, first: Identity) -> None:
        self._path, self._identity = path, first
        self.refusal: str | None = None  # of an invitation

    def identity(self) -> Identity:
        return self._identity

    @property
    def is_invited(self) -> bool:
        """And nothing more yet."""
        return bool(self._identity.invitation)

    @property
    def is_renewal_due(self) -> bool:
        made, expires = nats_jwt.life_unix_s(self._identity.jwt)
        return expires is not None and time.time() > made + (expires - made) * _RENEWED_AT

    async def certify(self, client: NatsClient) -> None:
        """Have a new key certified, and be known by it from now on.

        Raises:
            Refused: the invitation was used or has expired, or the edge was revoked.
            Unreachable: control does not answer, or cannot now.
        """
        before = self._identity
        key, text = identity.new_key()
        asked = msgspec.json.encode(words.Enrol(identity.request(key, before.name)))
        subject = words.enrol_subject(before.invitation) if before.invitation else words.renew_subject(before.name)
        try:
            told = words.read_answer((await client.request(subject, asked, timeout=_ANSWER_S)).data)
            granted = msgspec.json.decode(told.value, type=words.Granted | None)
        except (NoRespondersError, TimeoutError) as error:
            raise Unreachable("control is not on the exchange, which has to certify this edge") from error
        except (words.Unreadable, msgspec.MsgspecError) as error:
            raise Unreachable(f"control answers in other words: {error}") from error
        if told.code == words.REFUSED:
            raise Refused(told.message)
        if granted is None:
            raise Unreachable(f"control cannot certify this edge now: {told.message}")
        after = Identity(before.url, before.name, before.ca, text, granted.certificate, granted.jwt)
        identity.write(self._path, after)
        self._identity, self.refusal = after, None
        log.info("this edge is %s: certified until %s", after.name, _date(after.expires_unix_s))


def _date(unix_s: int | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s)) if unix_s else "further notice"
