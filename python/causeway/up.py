"""Everything of one machine in one process: edge, control, API. `causeway up` becomes this program.

The edge comes first and serves its last good snapshot; what fails after it never takes it down.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import uvicorn
import uvloop

from causeway.api.server import build
from causeway.control import zones
from causeway.control.plane import Plane, Site
from causeway.control.tokens import Keyring
from causeway.edge.agent import Agent, EdgeConfig, EngineFailed, start_engine
from causeway.exchange.local import LocalExchange
from causeway.model.origin_policy import OriginPolicy
from causeway.model.problem import Problem
from causeway.model.snapshot import Settings as SnapshotSettings
from causeway.model.snapshot import socket_text
from causeway.premises import bind_api, data_dir_of_our_own, is_local, root_token
from causeway.settings import DEFAULT_API, TOKEN_VARIABLE, Settings, StartError, read_settings
from causeway.store.database import Database, StoreError

log = logging.getLogger("causeway")

DRAIN_S = 30.0
_AGAIN_S = 5.0  # between attempts to bring control up


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal; answer the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        settings = read_settings(arguments)
        with data_dir_of_our_own(settings.data_dir):
            _run(settings)
    except StartError as error:
        print(f"causeway up: {error}", file=sys.stderr)
        return error.status
    return 0


def _run(settings: Settings) -> None:
    token = root_token(settings.data_dir / "token", settings.given_token)
    listener = bind_api(settings.api_host, settings.api_port)
    try:
        engine = start_engine(EdgeConfig(settings.data_dir / "edge", settings.workers))
    except EngineFailed as error:
        raise StartError(str(error)) from error
    exchange = LocalExchange()
    agent = Agent(engine, exchange)
    agent.start()
    port = listener.getsockname()[1]
    house = House(settings, Plane(_site(settings, port), exchange), Keyring(token), agent)
    house.open_control()
    _greet(settings, port, is_new=house.is_new())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(house.serve(listener))
    house.close()


def _site(settings: Settings, api_port: int) -> Site:
    own = ((settings.api_host, api_port),)
    policy = OriginPolicy(settings.allows_loopback, settings.denied, own, is_local)
    told = SnapshotSettings(
        origin_deny=policy.prefixes(),
        origin_deny_sockets=own,
        allow_loopback_origins=settings.allows_loopback,
        resolvers=settings.resolvers,
    )
    return Site(settings.edge_addresses, told, policy)


class _Server(uvicorn.Server):
    """Signals are ours: they drain flows first, and only then end the API."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class House:
    """The parts of this process, and the order in which they stop."""

    def __init__(self, settings: Settings, plane: Plane, keyring: Keyring, agent: Agent) -> None:
        self._settings, self._plane, self._keyring, self._agent = settings, plane, keyring, agent
        self._stops: list[asyncio.Task[None]] = []

    def open_control(self) -> None:
        """Bring control up; if that fails, the edge goes on with what it has and the API says why."""
        if self._stops:
            return
        try:
            if self._plane.database is None:
                self._plane.open(Database.open(self._settings.data_dir / "causeway.sqlite3"))
                zones.ensure_account(self._plane)
                self._keyring.load(self._plane)
                log.info("control is up, %d application(s)", len(self._plane.pieces))
            self._plane.settle()
        except (StoreError, Problem, OSError) as error:
            why = f"control is not available: {error}. The edge serves its last good snapshot"
            if why != self._plane.unavailable:
                log.error("%s", why)
            self._plane.unavailable, self._plane.database = why, None

    def is_new(self) -> bool:
        with suppress(Problem):
            return zones.count(self._plane) == 0
        return False

    def close(self) -> None:
        if self._plane.database:
            self._plane.database.close()

    async def serve(self, listener: socket.socket) -> None:
        """Serve the API until a signal has drained the edge."""
        stopping = asyncio.Event()
        config = uvicorn.Config(
            build(self._plane, self._keyring, stopping),
            access_log=False,
            log_config=None,
            log_level="warning",
            proxy_headers=False,  # nobody's word for who a client is
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server, loop = _Server(config), asyncio.get_running_loop()

        def on_stop() -> None:
            self._stops.append(asyncio.ensure_future(self._stop(server, stopping)))

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_stop)
        loop.add_signal_handler(signal.SIGHUP, _on_hangup)
        keeper = asyncio.ensure_future(self._keep_control_up())
        await server.serve(sockets=[listener])
        keeper.cancel()
        await asyncio.gather(*self._stops)

    async def _stop(self, server: uvicorn.Server, stopping: asyncio.Event) -> None:
        """Drain, then end the API. A second signal drains no longer."""
        drain_s = 0.0 if self._stops else DRAIN_S
        self._plane.unavailable = "causeway is stopping: the edge takes no changes any more"
        log.info("draining for up to %g s; the same signal again cuts what is left", drain_s)
        cut = await asyncio.to_thread(self._agent.stop, drain_s)
        log.info("the edge has stopped, %d flow(s) were cut", cut)
        stopping.set()
        server.should_exit = True

    async def _keep_control_up(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN_S)
            if self._plane.unavailable or self._plane.out_of_step:
                await asyncio.to_thread(self.open_control)


def _on_hangup() -> None:
    log.warning("SIGHUP: restarting without losing connections is not built yet; nothing was changed")


def _greet(settings: Settings, port: int, *, is_new: bool) -> None:
    """Say where everything is; at the first start also what to type next."""
    where, token_file = socket_text(settings.api_host, port), settings.data_dir / "token"
    print(f"API        http://{where}/client/v4")
    print(f"Reference  http://{where}/api/docs")
    print(f"Token      {TOKEN_VARIABLE} of the environment" if settings.given_token else f"Token      {token_file}")
    print(f"Edge       {', '.join(str(address) for address in settings.edge_addresses)}")
    if is_new:
        print("\nFirst application, in another shell:\n")
        if not settings.given_token:
            print(f"  export {TOKEN_VARIABLE}=$(cat {shlex.quote(str(token_file))})")
        if where != DEFAULT_API:
            print(f"  export CAUSEWAY_URL=http://{where}")
        print("  causeway zones create example.net")
        print("  causeway apps create --zone example.net --preset ssh --origin 192.0.2.10\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
