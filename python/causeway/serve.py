"""The serving process of one machine: edge, control, API. Started by the supervisor, never by hand.

A first one brings the edge up before anything else, which serves its last good snapshot; what fails after it never
takes it down. One that takes over does everything slow first and then asks its predecessor for what it has.
"""

from __future__ import annotations

import logging
import os
import select
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from causeway.model.snapshot import socket_text
from causeway.supervise.line import Birth, Line

if TYPE_CHECKING:
    from causeway.edge.agent import Agent, Engine
    from causeway.exchange.bus import EdgeSide
    from causeway.exchange.nats_edge import NatsEdge
    from causeway.serving import Serving
    from causeway.settings import Settings

    _Side = TypeVar("_Side", bound=EdgeSide)

log = logging.getLogger("causeway")

_CONTROL_S = 5.0  # the predecessor lets go of the database within this, or we open it all the same


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until the supervisor says otherwise; answer the exit status."""
    birth = Birth.take()
    if birth is None:
        print("causeway.serve is started by `causeway up`", file=sys.stderr)
        return 2
    line = Line(socket.socket(fileno=birth.line))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        _serve(birth, line, arguments)
    except BaseException as error:
        told = getattr(error, "status", None)  # a StartError, if that could be imported at all
        line.say("failed", why=str(error) if told else f"{type(error).__name__}: {error}")
        if told is None:
            raise
        print(f"causeway up: {error}", file=sys.stderr)
        return int(told)
    return 0


def _serve(birth: Birth, line: Line, arguments: Sequence[str] | None) -> None:
    from causeway.edge.engine import die_with
    from causeway.settings import read_settings

    if not die_with(birth.parent):
        return  # the supervisor has ended meanwhile
    os.umask(0o077)
    settings = read_settings(arguments)
    listener = socket.socket(fileno=birth.api)
    link = socket.socket(fileno=birth.link) if birth.link is not None else None
    makes = _outpost if settings.is_outpost else _house
    serving = makes(settings, birth, line, listener.getsockname()[1], link)

    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving.serve(listener))
    serving.close()


def _begin(line: Line, start: Callable[[], Engine], side: Callable[[], _Side]) -> tuple[Agent, _Side]:
    """The engine first: it serves while the rest is imported."""
    from causeway.edge.agent import Agent
    from causeway.edge.engine import pulse
    from causeway.edge.mitigation import Mitigation

    engine = start()
    pulse(engine, line)
    exchange = side()
    agent = Agent(engine, exchange, Mitigation(engine))
    agent.start()
    return agent, exchange


def _take_over(line: Line, settings: Settings, link: socket.socket, side: Callable[[], _Side]) -> tuple[Agent, _Side]:
    """Everything slow is done: ask the predecessor for what it has."""
    from causeway.edge.engine import take_over

    line.say("prepared")
    begun = _begin(line, lambda: take_over(settings, link), side)
    _await_control(link)
    return begun


def _house(settings: Settings, birth: Birth, line: Line, port: int, link: socket.socket | None) -> Serving:
    from causeway.edge.engine import start_engine
    from causeway.exchange.local import LocalExchange
    from causeway.premises import root_token

    token = root_token(settings.data_dir / "token", settings.given_token)
    begun = None if link else _begin(line, lambda: start_engine(settings), LocalExchange)

    # Only now: these take more than a second to import, and a first edge is serving already.
    from causeway.control.plane import Plane
    from causeway.control.tokens import Keyring
    from causeway.house import House, site

    agent, exchange = begun or _take_over(line, settings, _given(link), LocalExchange)
    plane = Plane(site(settings, port), exchange)
    house = House(settings, plane, Keyring(token), agent, line)
    house.open_control()
    if birth.is_first:
        _greet(settings, port, is_new=house.is_new())
    return house


def _outpost(settings: Settings, birth: Birth, line: Line, port: int, link: socket.socket | None) -> Serving:
    from causeway.edge.engine import start_engine

    begun = None if link else _begin(line, lambda: start_engine(settings), lambda: _nats_edge(settings, port))

    from causeway.outpost import Outpost

    agent, exchange = begun or _take_over(line, settings, _given(link), lambda: _nats_edge(settings, port))
    if birth.is_first:
        assert settings.exchange
        print(f"Edge       {settings.exchange.edge_name}, {', '.join(str(at) for at in settings.edge_addresses)}")
        print(f"Control    over {settings.exchange.url}")
        print(f"Health     http://{socket_text(settings.api_host, port)}/readyz", flush=True)
    return Outpost(settings, agent, exchange, line)


def _nats_edge(settings: Settings, port: int) -> NatsEdge:
    from causeway.exchange.link import Where
    from causeway.exchange.nats_edge import NatsEdge
    from causeway.exchange.words import Site
    from causeway.premises import edge_terms

    told, terms = settings.exchange, edge_terms(settings, port)
    assert told and told.edge_name
    site = Site.of(settings.edge_addresses, terms)
    return NatsEdge(Where(told.url, told.token, told.ca), told.edge_name, site)


def _given(link: socket.socket | None) -> socket.socket:
    assert link is not None
    return link


def _await_control(link: socket.socket) -> None:
    """Wait until the predecessor has closed the database: it closes its end then, or by ending."""
    with link:
        if not select.select([link], [], [], _CONTROL_S)[0]:
            log.warning("the process before this one still has the database; it is opened all the same")


def _greet(settings: Settings, port: int, *, is_new: bool) -> None:
    """Say where everything is; at the first start also what to type next."""
    from causeway.settings import DEFAULT_API, TOKEN_VARIABLE

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
