"""Everything of one machine in one process: edge, control, API. `causeway up` becomes this program.

The edge comes first and serves its last good snapshot; what fails after it never takes it down.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
from collections.abc import Sequence

from causeway.edge.agent import Agent, EdgeConfig, EngineFailed, start_engine
from causeway.exchange.local import LocalExchange
from causeway.model.snapshot import socket_text
from causeway.premises import bind_api, data_dir_of_our_own, root_token
from causeway.settings import DEFAULT_API, TOKEN_VARIABLE, Settings, StartError, read_settings

log = logging.getLogger("causeway")


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
        engine = start_engine(EdgeConfig(settings.data_dir / "edge", settings.workers, settings.dispatch))
    except EngineFailed as error:
        raise StartError(str(error)) from error
    exchange = LocalExchange()
    agent = Agent(engine, exchange)
    agent.start()
    port = listener.getsockname()[1]

    # Only now: these take more than a second to import, and the edge is serving already.
    import uvloop

    from causeway.control.plane import Plane
    from causeway.control.tokens import Keyring
    from causeway.house import House, site

    house = House(settings, Plane(site(settings, port), exchange), Keyring(token), agent)
    house.open_control()
    _greet(settings, port, is_new=house.is_new())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(house.serve(listener))
    house.close()


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
        print("  causeway apps create --dns ssh.example.net --protocol tcp/2222 --origin 127.0.0.1:22\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
