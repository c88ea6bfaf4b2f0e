"""Who somebody is on the exchange: a key of its own, and what control has said of it.

An edge keeps one in a file, an invitation is one that only lets in to get another, control makes its own at each start.
The key is in no log and no `repr`.
"""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from causeway.exchange import nats_jwt

_MOST_BYTES = 64 * 1024  # of a file


class NoIdentity(Exception):
    """The file holds none; the message says why."""


class Identity(msgspec.Struct, frozen=True):
    """`certificate` and `jwt` are of the same `key`: TLS asks for the one, nats-server's permissions for the other.

    All but the names are PEM or text. `invitation`: the number of one, where it lets in for nothing else.
    """

    url: str
    name: str
    ca: str
    key: str
    certificate: str
    jwt: str
    invitation: str = ""

    def __repr__(self) -> str:
        return f"Identity({self.name} at {self.url})"

    @property
    def inbox(self) -> str:
        """Where answers come to it, and to nobody else."""
        return f"causeway.inbox.{'join-' + self.invitation if self.invitation else self.name}"

    @property
    def made_unix_s(self) -> int:
        return nats_jwt.life_unix_s(self.jwt)[0]

    @property
    def expires_unix_s(self) -> int | None:
        return nats_jwt.life_unix_s(self.jwt)[1]

    @property
    def has_expired(self) -> bool:
        return (expires := self.expires_unix_s) is not None and expires <= time.time()

    def to_edges(self) -> bytes:
        """The same to other edges, as the engine takes it."""
        return to_edges(self.ca, self.certificate, self.key)

    def private_key(self) -> Ed25519PrivateKey:
        key = load_pem_private_key(self.key.encode(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise NoIdentity("its key is not of Ed25519")
        return key

    def tls(self) -> ssl.SSLContext:
        """For a connection on which both sides prove who they are, by TLS 1.3."""
        context = ssl.create_default_context(cadata=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with os.fdopen(os.memfd_create("identity"), "wb") as file:  # the library takes a path alone
            file.write((self.key + self.certificate).encode())
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context


def to_edges(ca: str, certificate: str, key: str) -> bytes:
    """What an edge shows other edges, all of it PEM: for the engine of this process, and for nobody else."""
    return msgspec.json.encode({"ca": ca, "certificate": certificate, "key": key})


def new_key() -> tuple[Ed25519PrivateKey, str]:
    """A key, and itself as PEM."""
    key = Ed25519PrivateKey.generate()
    return key, pem(key)


def pem(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def request(key: Ed25519PrivateKey, name: str) -> str:
    """A request for a certificate (PKCS #10, RFC 2986) as PEM: it proves that who asks has the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None)
    return made.public_bytes(Encoding.PEM).decode()


def read(path: Path) -> Identity:
    """Raises NoIdentity: there is no such file, or something else in it."""
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(_MOST_BYTES + 1), type=Identity)
        found.private_key()
        nats_jwt.life_unix_s(found.jwt)
        found.tls()
    except (msgspec.MsgspecError, ValueError, ssl.SSLError) as error:  # a parser's message may quote what is secret
        raise NoIdentity(f"{path} is not what `causeway invite` writes ({type(error).__name__})") from error
    except OSError as error:
        raise NoIdentity(f"{path} cannot be read: {error.strerror}") from error
    return found


def write(path: Path, identity: Identity) -> None:
    """Whole or not at all, for this user alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, msgspec.json.encode(identity))


def write_whole(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
