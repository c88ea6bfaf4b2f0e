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
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from causeway.model.snapshot import socket_text
from causeway.supervise.line import Birth, Line

if TYPE_CHECKING:
    from pathlib import Path

    from causeway.edge.agent import Agent
    from causeway.edge.anycast import Anycast
    from causeway.edge.name_server import NameServer
    from causeway.exchange.bus import EdgeSide
    from causeway.exchange.identity import Identity
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
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each end of a TLS connection
    try:
        _serve(birth, line, arguments)
    except BaseException as error:
        told = getattr(error, "status", None)  # a StartError, if that could be imported at all
        line.say("failed", why=str(error) if told else f"{type(error).__name__}: {error}")
        if told is None:
            raise
        from causeway.settings import command

        print(f"{command(arguments)}: {error}", file=sys.stderr)
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


def _come_up(
    settings: Settings,
    birth: Birth,
    line: Line,
    link: socket.socket | None,
    side: Callable[[], _Side],
    prepare: Callable[[], None],
) -> tuple[Agent, _Side]:
    """Bring the engine up, which serves at once, and `prepare` what is slow after it; in the other order with `link`,
    the predecessor's end, so that taking over what it has is quick.
    """
    from causeway.edge.agent import Agent
    from causeway.edge.engine import pulse, start_engine, take_over
    from causeway.edge.mitigation import Mitigation
    from causeway.premises import identity_to_edges

    identity, exchange = identity_to_edges(settings), None
    if link:
        prepare()
        exchange = side()
        line.say("prepared")
    engine = (
        take_over(settings, link, identity)
        if link
        else start_engine(settings, identity, distrusts_last=birth.distrusts_last)
    )
    pulse(engine, line)
    exchange = exchange or side()
    agent = Agent(engine, exchange, Mitigation(engine), _anycast(settings, line))
    agent.start()
    if link:
        _await_control(link)
    else:
        prepare()
    return agent, exchange


def _anycast(settings: Settings, line: Line) -> Anycast | None:
    told = settings.anycast
    if told is None:
        return None
    from causeway.edge.anycast import Anycast, Where  # most machines have no BGP
    from causeway.supervise.beacon import DEVICE

    where = Where(told.bird_socket, told.bird_include, DEVICE)
    return Anycast(
        told.policy, where, lambda is_lit: line.say("announces", is_lit=is_lit), has_peers=settings.is_outpost
    )


def _house(settings: Settings, birth: Birth, line: Line, port: int, link: socket.socket | None) -> Serving:
    from causeway.exchange.local import LocalExchange
    from causeway.premises import root_token

    names = _name_server(settings)

    def prepare() -> None:
        _import_house()
        for server in names:
            server.start()  # beside the one of the process before, by the last table

    token = root_token(settings.data_dir / "token", settings.given_token)
    agent, exchange = _come_up(settings, birth, line, link, LocalExchange, prepare)

    from causeway.control.plane import Plane
    from causeway.control.tokens import Keyring
    from causeway.house import House, site

    plane = Plane(site(settings, port), exchange)
    house = House(settings, plane, Keyring(token), agent, line, names[0] if names else None)
    house.open_control()
    if birth.is_first:
        _greet(settings, port, is_new=house.is_new())
    return house


def _name_server(settings: Settings) -> list[NameServer]:
    if settings.dns is None:
        return []
    from causeway.edge.name_server import NameServer

    return [NameServer(settings.dns.listen, settings.data_dir)]


def _import_house() -> None:
    """More than a second's worth."""
    import causeway.house  # noqa: F401


def _outpost(settings: Settings, birth: Birth, line: Line, port: int, link: socket.socket | None) -> Serving:
    from causeway.premises import edge_identity

    assert settings.exchange
    join, path = settings.exchange.join, settings.data_dir / "exchange" / "identity.json"
    identity = edge_identity(path, join) if join else None  # first: who cannot start must not have begun to serve
    names = _name_server(settings)
    makes = partial(_nats_edge, settings, port, path, identity, names[0] if names else None)

    def prepare() -> None:
        _import_outpost()
        for server in names:
            server.start()

    agent, exchange = _come_up(settings, birth, line, link, makes, prepare)

    from causeway.outpost import Outpost

    if birth.is_first:
        print(f"Edge       {exchange.name}, {', '.join(str(at) for at in settings.edge_addresses)}")
        print(f"Control    over {exchange.url}")
        if settings.dns:
            print(f"DNS        {', '.join(socket_text(*one) for one in settings.dns.listen)}")
        print(f"Health     http://{socket_text(settings.api_host, port)}/readyz", flush=True)
    return Outpost(settings, agent, exchange, line, names[0] if names else None)


def _import_outpost() -> None:
    import causeway.exchange.nats_edge
    import causeway.outpost  # noqa: F401


def _nats_edge(
    settings: Settings, port: int, path: Path, identity: Identity | None, names: NameServer | None
) -> NatsEdge:
    """`identity` is kept at `path`; none where the operator's own nats-server lets in whom it will."""
    from causeway.exchange.link import Where
    from causeway.exchange.membership import Membership
    from causeway.exchange.nats_edge import NatsEdge
    from causeway.exchange.words import Site
    from causeway.premises import edge_terms, name_server_addresses, public_addresses

    told, terms = settings.exchange, edge_terms(settings, port)
    site = Site.of(
        settings.edge_addresses,
        terms,
        public_addresses(settings),
        settings.location,
        name_server_addresses(settings),
        settings.dns.names if settings.dns else (),
        socket_text(*settings.overlay) if settings.overlay else "",
    )
    if identity:
        member = Membership(path, identity)
        return NatsEdge(Where(identity.url, identity=member.identity), identity.name, site, member, names)
    assert told and told.edge_name
    return NatsEdge(Where(told.url, told.token, told.ca), told.edge_name, site, names=names)


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
    if settings.edge_addresses:
        print(f"Edge       {', '.join(str(address) for address in settings.edge_addresses)}")
    if settings.control and settings.control.database:
        print(f"Node       {settings.control.node}, {settings.control.api_url}")
    if settings.dns:
        print(f"DNS        {', '.join(socket_text(*one) for one in settings.dns.listen)}")
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
