"""Everything of one machine in one process: edge, control, API. `causeway up` runs this.

The edge comes first and serves its last good snapshot; what fails after it never takes it down.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import secrets
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from causeway.api.server import build
from causeway.control import zones
from causeway.control.plane import Plane, Site
from causeway.control.tokens import VALID, Keyring
from causeway.edge.agent import Agent, EdgeConfig, EngineFailed, start_engine
from causeway.exchange.local import EdgeRefused, LocalExchange
from causeway.model.application import Address, Network
from causeway.model.origin_policy import METADATA, OriginPolicy, parse_network
from causeway.model.problem import Problem
from causeway.model.snapshot import Settings, socket_text
from causeway.store.database import Database, StoreError

log = logging.getLogger("causeway")

DRAIN_S = 30.0
TOKEN_VARIABLE = "CAUSEWAY_API_TOKEN"  # noqa: S105 - the name of the variable


class StartError(Exception):
    """The process cannot start; the message says why and what to do."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Options:
    data_dir: Path
    api_host: Address
    api_port: int
    edge_addresses: tuple[Address, ...]
    workers: int
    allows_loopback: bool
    denied: tuple[Network, ...]
    resolvers: tuple[tuple[Address, int], ...]


def main(arguments: list[str] | None = None) -> int:
    """Run until a signal; answer the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    options = read_options(arguments)
    try:
        return _run(options)
    except StartError as error:
        print(f"causeway up: {error}", file=sys.stderr)
        return error.status


def read_options(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="causeway up", description="Run an edge, its control plane and its API on this machine."
    )
    parser.add_argument("--data-dir", type=Path, default=Path("causeway-data"), metavar="DIR")
    parser.add_argument("--api", type=_socket, default="127.0.0.1:8787", metavar="HOST:PORT")
    parser.add_argument(
        "--edge-ip", type=ip_address, action="append", metavar="IP", help="repeatable; default 127.0.0.1"
    )
    parser.add_argument("--workers", type=int, default=0, help="0: one per core")
    parser.add_argument("--allow-loopback-origins", action="store_true")
    parser.add_argument("--deny-origins", type=parse_network, action="append", default=[], metavar="PREFIX")
    parser.add_argument("--resolver", type=_socket, action="append", default=[], metavar="IP:PORT")
    read = parser.parse_args(arguments)
    if not 0 <= read.workers <= 256:
        parser.error(f"--workers {read.workers}: 0 to 256")
    addresses = tuple(dict.fromkeys(read.edge_ip or [ip_address("127.0.0.1")]))
    return Options(
        data_dir=read.data_dir.absolute(),
        api_host=read.api[0],
        api_port=read.api[1],
        edge_addresses=addresses,
        workers=read.workers,
        allows_loopback=read.allow_loopback_origins or all(address.is_loopback for address in addresses),
        denied=tuple(read.deny_origins),
        resolvers=tuple(read.resolver),
    )


def _socket(text: str) -> tuple[Address, int]:
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    if not port.isdigit() or not 0 <= int(port) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 127.0.0.1:8787")
    try:
        return ip_address(host), int(port)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: {host!r} is not an IP address") from None


def _run(options: Options) -> int:
    with _lock_data_dir(options.data_dir):
        token, is_first_run = _root_token(options.data_dir / "token")
        listener = _bind_api(options)
        try:
            engine = start_engine(EdgeConfig(options.data_dir / "edge", options.workers))
        except EngineFailed as error:
            raise StartError(str(error)) from error
        exchange = LocalExchange()
        agent = Agent(engine, exchange)
        agent.start()
        plane, keyring = Plane(_site(options), exchange), Keyring(token)
        _open_store(plane, keyring, options.data_dir / "causeway.sqlite3")
        _greet(options, listener, is_first_run=is_first_run)
        asyncio.run(_serve(build(plane, keyring), listener, agent))
        if plane.database:
            plane.database.close()
    return 0


def _site(options: Options) -> Site:
    own = ((options.api_host, options.api_port),)
    settings = Settings(
        origin_deny=(*METADATA, *options.denied),
        origin_deny_sockets=own,
        allow_loopback_origins=options.allows_loopback,
        resolvers=options.resolvers,
    )
    policy = OriginPolicy(options.allows_loopback, options.denied, own, options.edge_addresses)
    return Site(options.edge_addresses, settings, policy)


@contextmanager
def _lock_data_dir(data_dir: Path) -> Iterator[None]:
    """One process on a data directory; the lock goes with the process, however it ends."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"the data directory {data_dir} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StartError(f"{data_dir} is in use by another causeway: stop it, or choose another --data-dir") from None
    try:
        yield
    finally:
        os.close(handle)


def _root_token(path: Path) -> tuple[str, bool]:
    """The root token, and whether it was made just now."""
    if given := os.environ.get(TOKEN_VARIABLE):
        if not VALID.fullmatch(given):
            raise StartError(f"{TOKEN_VARIABLE} must have 40 to 80 characters of 0-9 A-Z a-z _ -", status=2)
        return given, False
    try:
        if path.exists():
            kept = path.read_text().strip()
            if not VALID.fullmatch(kept):
                raise StartError(f"{path} holds no token of 40 to 80 characters: delete it to get a new one")
            return kept, False
        made, fresh = secrets.token_urlsafe(32), path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(made + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError as error:
        raise StartError(f"the token file {path} cannot be used: {error.strerror}") from error
    return made, True


def _bind_api(options: Options) -> socket.socket:
    family = socket.AF_INET6 if options.api_host.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((str(options.api_host), options.api_port))
    except OSError as error:
        where = socket_text(options.api_host, options.api_port)
        raise StartError(
            f"the API cannot listen on {where}: {error.strerror}; choose another --api HOST:PORT"
        ) from error
    listener.listen(512)
    return listener


def _open_store(plane: Plane, keyring: Keyring, path: Path) -> None:
    """Bring control up; if that fails, the edge goes on with what it has and the API says why."""
    try:
        plane.open(Database.open(path))
        zones.ensure_account(plane)
        keyring.load(plane)
    except (StoreError, EdgeRefused, Problem) as error:
        plane.unavailable = f"control is not available: {error}. The edge serves its last good snapshot"
        log.error("%s", plane.unavailable)


def _greet(options: Options, listener: socket.socket, *, is_first_run: bool) -> None:
    url = "http://" + socket_text(options.api_host, listener.getsockname()[1])
    token_file = options.data_dir / "token"
    from_environment = TOKEN_VARIABLE in os.environ
    print(f"API        {url}/client/v4")
    print(f"Reference  {url}/api/docs")
    print(f"Token      {TOKEN_VARIABLE} of the environment" if from_environment else f"Token      {token_file}")
    print(f"Edge       {', '.join(str(address) for address in options.edge_addresses)}")
    if is_first_run:
        print("\nFirst application, in another shell:\n")
        print(f"  export {TOKEN_VARIABLE}=$(cat {shlex.quote(str(token_file))})")
        print("  causeway zones create example.net")
        print("  causeway apps create --zone example.net --preset ssh --origin 192.0.2.10\n")
    sys.stdout.flush()


class _Server(uvicorn.Server):
    """Signals are ours: they drain flows first, and only then end the API."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(app: FastAPI, listener: socket.socket, agent: Agent) -> None:
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", timeout_graceful_shutdown=2, server_header=False
    )
    server, loop = _Server(config), asyncio.get_running_loop()
    stops: list[asyncio.Future[int]] = []

    def stop() -> None:
        drain_s = 0.0 if stops else DRAIN_S
        log.info("draining for up to %g s; the same signal again cuts what is left", drain_s)
        stops.append(asyncio.ensure_future(asyncio.to_thread(agent.stop, drain_s)))
        stops[-1].add_done_callback(lambda _done: setattr(server, "should_exit", True))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(
        signal.SIGHUP,
        log.warning,
        "SIGHUP: restarting without losing connections is not built yet; nothing was changed",
    )
    await server.serve(sockets=[listener])
    for stopped in stops:
        log.info("%d flow(s) were cut", await stopped)


if __name__ == "__main__":
    sys.exit(main())
