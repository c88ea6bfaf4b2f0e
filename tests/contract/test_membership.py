"""Who may be an edge, and what it may do: told to a real nats-server, and asked of it by those who want more."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from contract.test_exchange import OverNats, Scripted, takes
from nats.errors import Error as NatsError
from support.nats import CertifyingServer
from support.patience import eventually
from support.program import Programs

from causeway.exchange import authority as signing
from causeway.exchange import identity, membership, nats_edge, words
from causeway.exchange.authority import Authority
from causeway.exchange.identity import Identity
from causeway.exchange.link import NatsClient, Unreachable, Where

NAME, OTHER = "fra-1", "ams-1"
STORED = f"$JS.API.DIRECT.GET.KV_{words.SNAPSHOTS}."


@pytest.fixture
def server(programs: Programs) -> CertifyingServer:
    return CertifyingServer(programs, programs.folder / "exchange").start()


@pytest.fixture
def over(server: CertifyingServer) -> Iterator[OverNats]:
    made = OverNats(server, NAME)
    yield made
    made.close()


def joined(over: OverNats) -> Scripted:
    side = over.side()
    edge = Scripted(side)
    over.come(edge, side)
    return edge


def certified(over: OverNats, name: str) -> Identity:
    """What an edge of that name has, for somebody who does with it what no edge does."""
    assert over.registry
    key, text = identity.new_key()
    granted = over.registry.renew(name, identity.request(key, name))
    own = over.registry.system()
    return Identity(own.url, name, own.ca, text, granted.certificate, granted.jwt)


def as_client(who: Identity, act: Callable[[NatsClient], Awaitable[object]]) -> None:
    async def run() -> None:
        client = NatsClient(Where(who.url, identity=lambda: who))
        await client.open(allow_reconnect=False)
        try:
            await act(client)
            await client.flush(5)
        finally:
            await client.close()

    asyncio.run(run())


def refusal(who: Identity, act: Callable[[NatsClient], Awaitable[object]]) -> str:
    """What the server says of a right that is missing."""
    told: list[str] = []

    async def run() -> None:
        is_told = asyncio.Event()

        async def on_error(error: Exception) -> None:
            told.append(str(error).lower())
            is_told.set()

        client = NatsClient(Where(who.url, identity=lambda: who))
        await client.open(error_cb=on_error, allow_reconnect=False)
        try:
            await act(client)
            await asyncio.wait_for(is_told.wait(), 5)
        finally:
            await client.close()

    asyncio.run(run())
    return told[0]


@pytest.mark.parametrize(
    "subject",
    [
        f"causeway.up.{OTHER}.report",
        f"causeway.up.{OTHER}.renew",
        f"causeway.down.{OTHER}.ask",
        f"causeway.down.{NAME}.ask",
        "causeway.enrol.00000000000000000000000000000000",
        f"{STORED}$KV.{words.SNAPSHOTS}.{OTHER}",
        f"$JS.API.STREAM.MSG.GET.KV_{words.SNAPSHOTS}",
        f"$JS.API.STREAM.INFO.KV_{words.SNAPSHOTS}",
        f"$JS.API.STREAM.DELETE.KV_{words.SNAPSHOTS}",
        f"$JS.API.CONSUMER.CREATE.KV_{words.SNAPSHOTS}",
        f"$KV.{words.SNAPSHOTS}.{OTHER}",
        f"$KV.{words.SNAPSHOTS}.{NAME}",
        "$SYS.REQ.CLAIMS.UPDATE",
    ],
)
def test_an_edge_may_not_publish(over: OverNats, server: CertifyingServer, subject: str) -> None:
    told = refusal(certified(over, NAME), lambda client: client.publish(subject, b"x"))
    assert "permissions violation for publish" in told
    eventually(lambda: server.refused() == [subject])


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        "causeway.>",
        "causeway.up.>",
        f"causeway.down.{OTHER}.ask",
        "causeway.down.*.ask",
        f"$KV.{words.SNAPSHOTS}.{OTHER}",
        f"$KV.{words.SNAPSHOTS}.*",
        f"causeway.inbox.{OTHER}.>",
        "_INBOX.>",
    ],
)
def test_an_edge_may_not_listen_to(over: OverNats, server: CertifyingServer, subject: str) -> None:
    told = refusal(certified(over, NAME), lambda client: client.subscribe(subject))
    assert "permissions violation for subscription" in told
    eventually(lambda: server.refused() == [subject])


def test_an_edge_does_what_edges_do_without_a_refusal(over: OverNats, server: CertifyingServer) -> None:
    edge = joined(over)
    assert takes(over.control, b"snapshot")
    over.control.put_blob("prefixes", bytes(1_500_000), overlaps=True, private=True)
    assert edge.blobs and over.control.rule_hits()
    assert server.refused() == []


def test_an_invitation_is_good_for_asking_and_for_nothing_else(over: OverNats, server: CertifyingServer) -> None:
    assert over.registry
    invited = over.registry.invite("1" * 32, NAME)
    for subject in (
        f"causeway.enrol.{'2' * 32}",
        f"causeway.up.{NAME}.report",
        f"{STORED}$KV.{words.SNAPSHOTS}.{NAME}",
    ):
        told = refusal(invited, lambda client, subject=subject: client.publish(subject, b"x"))
        assert "permissions violation" in told
    assert over.control.report() is None


def test_a_used_invitation_lets_nobody_in(over: OverNats) -> None:
    assert over.registry
    first = over.member("1" * 32)
    again = membership.Membership(over._server.store.parent / "other.json", first.identity())
    as_client(first.identity(), first.certify)
    assert not first.is_invited
    with pytest.raises(membership.Refused):
        as_client(again.identity(), again.certify)
    assert again.is_invited and not (over._server.store.parent / "other.json").exists()


def test_what_an_edge_was_granted_is_kept_for_its_user_alone_and_read_again(over: OverNats) -> None:
    member = over.member("1" * 32)
    as_client(member.identity(), member.certify)
    [path] = over._server.store.parent.glob("1*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert identity.read(path) == member.identity()


def test_an_edge_is_certified_again_in_time_and_nothing_is_lost_meanwhile(
    over: OverNats, server: CertifyingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "CERTIFIED_S", 14)
    monkeypatch.setattr(nats_edge, "_LOOK_S", 0.5)
    assert over.registry
    joined(over)
    began_s, answers = time.monotonic(), 0
    while time.monotonic() - began_s < 16:  # longer than the first certificate lives
        assert over.control.rule_hits(), "it is asked all the time, and always answers"
        answers += 1
        time.sleep(0.005)
    print(f"{answers} questions answered, {len(set(over.registry.public_keys))} certificates")
    assert len(set(over.registry.public_keys)) >= 4, "each time another key"
    assert takes(over.control, b"after")
    assert server.refused() == []


def test_a_revoked_edge_is_cut_off_and_does_not_come_back(over: OverNats, server: CertifyingServer) -> None:
    assert over.registry
    edge = joined(over)
    assert takes(over.control, b"before")
    over.registry.revoked |= dict.fromkeys(over.registry.public_keys, int(time.time()))
    server.authority.prepare_server(over.registry.revoked)  # as control does
    over._control.forget(NAME)
    [side] = over._sides
    eventually(lambda: not side.is_connected)
    assert not takes(over.control, b"after")
    server.kill()  # nor after a restart of nats-server
    server.start()
    eventually(lambda: over._control.is_connected, 20)
    assert server.program
    eventually(lambda: "authentication error" in server.program.output, 20)
    assert not side.is_connected
    assert edge.snapshots == [b"before"]


@pytest.mark.parametrize("who", ["another authority's", "nobody's"])
def test_a_certificate_that_is_not_of_this_authority_is_refused(server: CertifyingServer, who: str) -> None:
    other = Authority(server.folder / "other", server.url)
    stranger = other.control()
    ours = server.authority.control()

    async def knock() -> None:
        tls = ssl.create_default_context(cadata=ours.ca)
        if who == "another authority's":
            tls = Identity(ours.url, ours.name, ours.ca, stranger.key, stranger.certificate, ours.jwt).tls()
        client = NatsClient(Where(server.url))
        client._tls = tls
        await client.open(allow_reconnect=False)

    with pytest.raises((NatsError, OSError, TimeoutError)):
        asyncio.run(knock())
    assert server.program
    eventually(lambda: "TLS handshake error" in server.program.output)


def test_a_server_that_is_not_of_this_authority_hears_nothing(server: CertifyingServer) -> None:
    stranger = Authority(server.folder / "other", server.url).control()
    with pytest.raises((ssl.SSLCertVerificationError, NatsError, OSError)):
        as_client(stranger, lambda client: client.flush())


def test_control_that_is_away_is_asked_again(server: CertifyingServer) -> None:
    invited = server.authority.invitation("1" * 32, NAME)
    member = membership.Membership(server.folder / "identity.json", invited)
    with pytest.raises(Unreachable, match="control is not on the exchange"):
        as_client(invited, member.certify)
    assert member.is_invited
