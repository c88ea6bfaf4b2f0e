"""What must be in hand before anything runs: the data directory for itself, the root token, the socket of the API."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from causeway.model.application import Address
from causeway.model.origin_policy import OriginPolicy
from causeway.model.snapshot import Settings as SnapshotSettings
from causeway.model.snapshot import socket_text
from causeway.settings import TOKEN_VARIABLE, Settings, StartError, is_token

if TYPE_CHECKING:
    from causeway.exchange.identity import Identity


@contextmanager
def data_dir_of_our_own(data_dir: Path) -> Iterator[None]:
    """One process on a data directory; the lock goes with the process, however it ends."""
    os.umask(0o077)  # all that is written here is for this user alone
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"the data directory {data_dir} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StartError(f"{data_dir} is in use by another causeway: stop it, or choose another --data-dir") from None
    try:
        yield
    finally:
        os.close(handle)


def root_token(path: Path, given: str | None) -> str:
    """The token of the environment, else the one in the file, which is made at the first start."""
    if given:
        return given
    try:
        if path.exists():
            kept = path.read_text().strip()
            if not is_token(kept):
                raise StartError(f"{path} holds no token of 40 or more characters: delete it to get a new one")
            return kept
        made, fresh = secrets.token_urlsafe(32), path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(made + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"the token file {path} cannot be used: {error}; or set {TOKEN_VARIABLE}") from error
    return made


def bind_api(host: Address, port: int) -> socket.socket:
    """Take the API's socket before anything else is started: a second process must not disturb the first."""
    listener = socket.socket(socket.AF_INET6 if host.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((str(host), port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise StartError(
            f"the API cannot listen on {socket_text(host, port)}: {error.strerror}; choose another --api HOST:PORT"
        ) from error
    return listener


def check_dns(listen: Iterable[tuple[Address, int]]) -> None:
    """Nobody else has those ports: the serving processes share them among themselves, and would with others.

    Raises:
        StartError: somebody has, or this user may not listen there.
    """
    for host, port in listen:
        family = socket.AF_INET6 if host.version == 6 else socket.AF_INET
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                if host.version == 6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((str(host), port))
                except OSError as error:
                    may = "; ports below 1024 take root or CAP_NET_BIND_SERVICE" if error.errno == errno.EACCES else ""
                    told = f"DNS cannot listen on {socket_text(host, port)}: {error.strerror}{may}"
                    raise StartError(f"{told}; choose another --dns IP:PORT") from error


def public_addresses(settings: Settings) -> tuple[Address, ...]:
    """What clients reach this machine's edge by, where that is not what it listens on.

    One that listens on all addresses of a family is reached by the one that this machine reaches the world from.
    """
    if settings.public_addresses:
        return settings.public_addresses
    unspecified = [at for at in settings.edge_addresses if at.is_unspecified]
    if not unspecified:
        return ()
    others = [at for at in settings.edge_addresses if not at.is_unspecified]
    return (*others, *(found for at in unspecified if (found := _outward(at.version))))


def name_server_addresses(settings: Settings) -> tuple[Address, ...]:
    """Where resolvers reach the name server of this machine."""
    if settings.dns is None:
        return ()
    found = (_outward(at.version) if at.is_unspecified else at for at, _ in settings.dns.listen)
    return tuple(dict.fromkeys(at for at in found if at))


def _outward(version: int) -> Address | None:
    """The address that this machine reaches the world from; nothing is sent."""
    family, world = (socket.AF_INET6, "2001:db8::1") if version == 6 else (socket.AF_INET, "192.0.2.1")
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((world, 53))
        return ip_address(probe.getsockname()[0])
    return None


def origin_policy(settings: Settings, api_port: int) -> OriginPolicy:
    return OriginPolicy(settings.allows_loopback, settings.denied, ((settings.api_host, api_port),), is_local)


def edge_terms(settings: Settings, api_port: int) -> SnapshotSettings:
    """What holds for the whole edge of this machine."""
    return SnapshotSettings(
        origin_deny=origin_policy(settings, api_port).prefixes(),
        origin_deny_sockets=((settings.api_host, api_port),),
        allow_loopback_origins=settings.allows_loopback,
        resolvers=settings.resolvers,
        source_addresses=settings.source_addresses,
    )


def edge_identity(path: Path, join: Path) -> Identity:
    """Who this edge is: what it was certified as, kept at `path`, or what a later invitation says.

    Raises:
        StartError: neither can be used.
    """
    from causeway.exchange import identity  # most machines are alone

    kept = invited = None
    try:
        kept = identity.read(path) if path.exists() else None
        invited = identity.read(join) if join.exists() or not kept else None
    except identity.NoIdentity as error:
        raise StartError(f"{error}: have this edge invited on the control machine, by causeway invite", 2) from error
    if invited and not invited.invitation:
        raise StartError(f"{join} is the identity of an edge, which is on one machine alone: use an invitation", 2)
    if kept and invited and kept.name != invited.name:
        told = f"{path.parent.parent} is the data of edge {kept.name}, and {join} invites {invited.name}"
        raise StartError(f"{told}: give each edge a --data-dir of its own", 2)
    if kept and not (invited and invited.made_unix_s > kept.made_unix_s and not invited.has_expired):
        return kept
    assert invited
    return invited


def identity_to_edges(settings: Settings) -> bytes | None:
    """What the edge of this machine is to others, as far as it can be known before it serves; see `edge_identity`."""
    told, folder = settings.exchange, settings.data_dir / "exchange"
    if told is None or settings.overlay is None:
        return None
    from causeway.exchange import identity  # most machines are alone
    from causeway.exchange.authority import Authority

    try:
        if told.certifies:
            return Authority(folder, told.url).local()
        path = folder / "identity.json"
        kept = identity.read(path) if path.exists() else None
    except (OSError, identity.NoIdentity):  # who needs it says so
        return None
    return kept.to_edges() if kept and not kept.invitation else None


def is_local(address: Address) -> bool:
    """Whether this machine has the address: it can be bound."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
