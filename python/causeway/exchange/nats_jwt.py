"""What nats-server believes of whom: signed statements (JWT, version 2 of nats.io/jwt) about public keys (nkeys). Pure.

An operator vouches for accounts, an account for users; a user's statement says which subjects it may use until when.
Source: github.com/nats-io/jwt and github.com/nats-io/nkeys; nats-server itself judges what is made here, in a test.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ANSWER_S = 120  # how long an answer to a question may be given
_NO_LIMITS = {"subs": -1, "data": -1, "payload": -1}
_ALL_OF_AN_ACCOUNT = {**_NO_LIMITS, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
_ALL_OF_JETSTREAM = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


class Kind(IntEnum):
    """The first byte of a public key as text: its letter says what it stands for."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3


@dataclass(frozen=True, slots=True)
class Rights:
    """Subjects that a user may publish to and subscribe to; nothing given: all. Questions it gets it may answer."""

    publish: Sequence[str] = ()
    subscribe: Sequence[str] = ()
    answers: bool = False


def nkey(kind: Kind, key: Ed25519PublicKey) -> str:
    """The public key as nats-server writes it: base32 of kind, key and CRC-16/XMODEM."""
    raw = bytes([kind]) + key.public_bytes_raw()
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def operator_jwt(operator: Ed25519PrivateKey, system: Ed25519PublicKey, made_unix_s: int) -> str:
    own = nkey(Kind.OPERATOR, operator.public_key())
    told = {"type": "operator", "version": 2, "system_account": nkey(Kind.ACCOUNT, system)}
    return _signed(operator, Kind.OPERATOR, own, "causeway", told, made_unix_s)


def account_jwt(
    operator: Ed25519PrivateKey,
    account: Ed25519PublicKey,
    name: str,
    made_unix_s: int,
    *,
    has_jetstream: bool,
    revoked: Mapping[str, int] | None = None,
) -> str:
    """`revoked`: users whose statements of that time (seconds since 1970) or before are none any more."""
    told = {
        "type": "account",
        "version": 2,
        "limits": {**_ALL_OF_AN_ACCOUNT, **(_ALL_OF_JETSTREAM if has_jetstream else {})},
        "default_permissions": {"pub": {}, "sub": {}},
        "revocations": dict(revoked or {}),
    }
    return _signed(operator, Kind.OPERATOR, nkey(Kind.ACCOUNT, account), name, told, made_unix_s)


def user_jwt(
    account: Ed25519PrivateKey,
    user: Ed25519PublicKey,
    name: str,
    rights: Rights,
    made_unix_s: int,
    expires_unix_s: int | None = None,
) -> str:
    told: dict[str, object] = {
        "type": "user",
        "version": 2,
        "pub": {"allow": list(rights.publish)} if rights.publish else {},
        "sub": {"allow": list(rights.subscribe)} if rights.subscribe else {},
        **_NO_LIMITS,
    }
    if rights.answers:
        told["resp"] = {"max": 1, "ttl": _ANSWER_S * 10**9}
    return _signed(account, Kind.ACCOUNT, nkey(Kind.USER, user), name, told, made_unix_s, expires_unix_s)


def life_unix_s(jwt: str) -> tuple[int, int | None]:
    """When a user's statement was made and when it ends, in seconds since 1970; nothing: never.

    Raises:
        ValueError: it is none.
    """
    parts = jwt.split(".")
    if len(parts) != 3:
        raise ValueError("a statement has three parts")
    told = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    made, expires = (told.get("iat"), told.get("exp")) if isinstance(told, dict) else (None, None)
    if not isinstance(made, int) or not isinstance(expires, int | None):
        raise ValueError("its times are none")
    return made, expires


def _signed(
    key: Ed25519PrivateKey,
    kind: Kind,
    subject: str,
    name: str,
    told: Mapping[str, object],
    made_unix_s: int,
    expires_unix_s: int | None = None,
) -> str:
    claims: dict[str, object] = {
        "iat": made_unix_s,
        "iss": nkey(kind, key.public_key()),
        "name": name,
        "sub": subject,
        "nats": told,
    }
    if expires_unix_s is not None:
        claims["exp"] = expires_unix_s
    digest = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    said = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(claims)}"
    return f"{said}.{_text(key.sign(said.encode()))}"


def _part(of: Mapping[str, object]) -> str:
    return _text(json.dumps(of, separators=(",", ":")).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
