"""`x_causeway.balance: hash`: kernel and engine send the same client to the same origin, as the weights say."""

import socket
from collections import Counter
from collections.abc import Iterator

import pytest
from support.carried import EDGE, Middle
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs

WAIT_S = 10.0
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
# On the wires of `Middle`: addresses of the client's machine, and of the origin's.
CLIENTS = {4: [f"198.18.1.{n}" for n in range(10, 50)], 6: [f"2001:db8:1::{n:x}" for n in range(16, 56)]}
ORIGINS = {4: [f"198.18.2.{n}" for n in (10, 11, 12)], 6: [f"2001:db8:2::{n}" for n in (10, 11, 12)]}
LENGTH = {4: 24, 6: 64}


@pytest.fixture(scope="module")
def middle(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Middle]:
    made = Middle(namespaces, module_programs, tmp_path_factory.mktemp("data"))
    for place, addresses in ((made.client, CLIENTS), (made.origin, ORIGINS)):
        for family, found in addresses.items():
            more = ["nodad"] if family == 6 else []
            for address in found:
                place.ip("address", "add", f"{address}/{LENGTH[family]}", "dev", device(place), *more)
    made.edge.start()
    yield made
    made.edge.close()
    made.edge.stop()
    made.flush()


def device(place: object) -> str:
    with place:  # type: ignore[attr-defined]
        return next(name for _, name in socket.if_nameindex() if name.startswith("cw"))


def choice(middle: Middle, family: int, client: str, port: int, servers: dict[str, socket.socket]) -> str:
    """The origin that a connection of this client arrives at."""
    with middle.client:
        asking = socket.create_connection((EDGE[family], port), timeout=WAIT_S, source_address=(client, 0))

    def accepted() -> str:
        for name, server in servers.items():
            try:
                server.accept()[0].close()
            except BlockingIOError:
                continue
            return name
        raise AssertionError("it arrived nowhere")

    with asking:
        return eventually(accepted, WAIT_S)


@pytest.mark.parametrize("family", [4, 6])
def test_both_carriers_choose_the_same_origin_for_a_client(middle: Middle, family: int) -> None:
    hosts = [origin if family == 4 else f"[{origin}]" for origin in ORIGINS[family]]
    origins = [f"tcp://{host}:7000" for host in hosts]
    servers = {}
    for origin in ORIGINS[family]:
        with middle.origin:
            servers[origin] = socket.create_server((origin, 7000), family=FAMILY[family])
        servers[origin].setblocking(False)
    found: dict[str, list[str]] = {}
    for port, carrier in ((9000 + family, "kernel"), (9010 + family, "engine")):
        application = middle.edge.create_application(
            f"tcp/{port}",
            *origins,
            edge_ips={"type": "dynamic", "connectivity": f"ipv{family}"},
            x_causeway={"carrier": carrier, "balance": "hash", "weights": [2, 1, 0]},
        )
        assert middle.application(application)["carrier"] == carrier
        found[carrier] = [choice(middle, family, client, port, servers) for client in CLIENTS[family]]
    assert found["kernel"] == found["engine"]
    counts = Counter(found["kernel"])
    first, second, last = ORIGINS[family]
    assert counts[first] > counts[second] > 0 and counts[last] == 0, counts
    for server in servers.values():
        server.close()
