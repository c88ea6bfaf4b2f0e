"""The IP firewall with real clients of other networks, without the kernel's guard: the engine judges who gets in.

With the guard: `test_firewall_in_kernel.py`.
"""

import itertools
import socket
from collections.abc import Iterator

import pytest
from support import echo
from support.carried import CLIENT, EDGE, ORIGIN, Middle
from support.echo import start_echo
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs

ECHO = 7000
OTHER = "198.18.1.3"  # a second address of the client
ports = itertools.count(9500)


@pytest.fixture(scope="module")
def middle(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Middle]:
    made = Middle(namespaces, module_programs, tmp_path_factory.mktemp("data"), "--guard", "off")
    device = next(name for _, name in _devices(made) if name != "lo")
    made.client.ip("address", "add", f"{OTHER}/24", "dev", device)
    made.edge.start()
    for family in (4, 6):
        start_echo(module_programs, ORIGIN[family], ECHO, inside=made.origin)
    yield made
    made.edge.close()
    made.edge.stop()
    made.flush()


def _devices(middle: Middle) -> list[tuple[int, str]]:
    with middle.client:
        return socket.if_nameindex()


def block(middle: Middle, target: str, value: str, mode: str = "block", **extension: bool) -> str:
    rules = middle.edge.applications.replace("spectrum/apps", "firewall/access_rules/rules")
    body = {"configuration": {"target": target, "value": value}, "mode": mode, "x_causeway": extension}
    return f"{rules}/{middle.edge.result('POST', rules, body)['id']}"


def is_let_in(middle: Middle, port: int, client: str, edge: str) -> bool:
    try:  # the reset may come before connect() has returned
        with middle.client:
            made = socket.create_connection((edge, port), timeout=10, source_address=(client, 0))
        with made:
            made.sendall(b"hello")
            return made.recv(5) == b"hello"
    except (ConnectionResetError, BrokenPipeError):
        return False


@pytest.mark.parametrize(("family", "target"), [(4, "ip"), (6, "ip6")])
def test_rules_are_never_skipped_by_the_kernel(middle: Middle, family: int, target: str) -> None:
    port = next(ports)
    host = ORIGIN[family] if family == 4 else f"[{ORIGIN[family]}]"
    made = middle.edge.create_application(f"tcp/{port}", f"tcp://{host}:{ECHO}", ip_firewall=True)

    def reasons() -> set[str | None]:
        listeners = middle.application(made)["listeners"]
        return {at["not_carried"] and at["not_carried"]["code"] for at in listeners if at["address"] == EDGE[family]}

    assert reasons() == {None}, "without a rule the kernel carries it"
    with middle.client:
        assert echo.ask(port, EDGE[family], b"exactly this") == b"exactly this"
    rule = block(middle, target, CLIENT[family])
    assert not is_let_in(middle, port, CLIENT[family], EDGE[family])
    assert reasons() == {"ip_firewall"}
    assert middle.edge.event(made, cause="firewall_blocked")["client_matched_ip_firewall"] == "BLOCK_IP"
    middle.edge.result("DELETE", rule)
    eventually(lambda: reasons() == {None} or None, 5.0)
    assert is_let_in(middle, port, CLIENT[family], EDGE[family])


def test_one_of_a_blocked_network_is_allowed(middle: Middle) -> None:
    port = next(ports)
    middle.edge.create_application(f"tcp/{port}", f"tcp://{ORIGIN[4]}:{ECHO}", ip_firewall=True)
    rules = [block(middle, "ip_range", "198.18.1.0/24"), block(middle, "ip", OTHER, "whitelist")]
    assert not is_let_in(middle, port, CLIENT[4], EDGE[4])
    assert is_let_in(middle, port, OTHER, EDGE[4])
    for rule in rules:
        middle.edge.result("DELETE", rule)


@pytest.mark.parametrize("family", [4, 6])
def test_flows_that_the_kernel_has_are_cut_if_the_rule_asks_for_it(middle: Middle, family: int) -> None:
    port = next(ports)
    target, host = ("ip", ORIGIN[4]) if family == 4 else ("ip6", f"[{ORIGIN[6]}]")
    made = middle.edge.create_application(f"tcp/{port}", f"tcp://{host}:{ECHO}", ip_firewall=True)
    before = middle.path()["verdicts"].get("promoted", 0)
    with middle.client:
        held = socket.create_connection((EDGE[family], port), timeout=10)
    with held:
        assert echo.echoes(held)
        assert middle.path()["verdicts"]["promoted"] == before + 1, "the kernel has it"
        rules = [block(middle, target, CLIENT[family])]
        assert echo.echoes(held), "a rule alone is about new connections"
        middle.edge.result("PATCH", rules[0], {"x_causeway": {"drop_established": True}})
        with pytest.raises(ConnectionResetError):
            held.recv(1)
    assert middle.edge.event(made, cause="firewall_cut")["client_matched_ip_firewall"] == "BLOCK_IP"
    for rule in rules:
        middle.edge.result("DELETE", rule)


def test_the_first_rule_cuts_whom_it_names_and_nobody_else(middle: Middle) -> None:
    port = next(ports)
    application = middle.edge.create_application(f"tcp/{port}", f"tcp://{ORIGIN[4]}:{ECHO}", ip_firewall=True)
    with middle.client:
        held, other = (
            socket.create_connection((EDGE[4], port), timeout=10, source_address=(client, 0))
            for client in (CLIENT[4], OTHER)
        )
    with held, other:
        assert echo.echoes(held) and echo.echoes(other)
        rule = block(middle, "ip", CLIENT[4], drop_established=True)
        with pytest.raises(ConnectionResetError):
            held.recv(1)
        assert echo.echoes(other)
        middle.edge.result("DELETE", rule)
    middle.edge.event(application, cause="firewall_cut")


def test_datagrams_of_a_session_that_the_kernel_has_end_with_the_rule(middle: Middle) -> None:
    port = next(ports)
    made = middle.edge.create_application(f"udp/{port}", f"udp://{ORIGIN[4]}:{ECHO}", ip_firewall=True)
    with middle.client:
        client = socket.socket(type=socket.SOCK_DGRAM)
    with client:
        client.settimeout(10)
        client.connect((EDGE[4], port))
        assert echo.echoes(client)
        rule = block(middle, "ip_range", "198.18.1.0/24", drop_established=True)
        middle.edge.event(made, cause="firewall_cut")
        client.send(b"into the dark")
        middle.edge.event(made, cause="firewall_blocked")
        middle.edge.result("DELETE", rule)


@pytest.mark.parametrize("family", [4, 6])
def test_lists_and_countries_decide_about_clients_of_other_networks(middle: Middle, family: int) -> None:
    port = next(ports)
    host = ORIGIN[family] if family == 4 else f"[{ORIGIN[family]}]"
    middle.edge.create_application(f"tcp/{port}", f"tcp://{host}:{ECHO}", ip_firewall=True)

    def put(what: str, text: str) -> None:
        assert middle.edge.http.put(f"/api/v1/firewall/{what}", content=text).status_code == 200

    def is_in() -> bool:
        return is_let_in(middle, port, CLIENT[family], EDGE[family])

    put("databases/country", "198.18.0.0/15,DE\n2001:db8::/32,DE\n")
    by_country = block(middle, "country", "DE")
    assert not is_in()
    put("lists/partners", f"{CLIENT[4]}\n{CLIENT[6]}\n")
    by_list = block(middle, "list", "partners", "whitelist")
    assert is_in(), "an address is more specific than a country"
    put("lists/partners", "192.0.2.1\n")
    assert not is_in()
    put("databases/country", "192.0.2.0/24,DE\n")
    assert is_in()
    for rule in (by_country, by_list):
        middle.edge.result("DELETE", rule)
    middle.edge.result("DELETE", "/api/v1/firewall/lists/partners")


def test_limits_hold_for_each_source_and_the_kernel_does_not_go_round_them(middle: Middle) -> None:
    port = next(ports)
    limits = {"limits": [{"of": "source", "connections": 1}]}
    made = middle.edge.create_application(f"tcp/{port}", f"tcp://{ORIGIN[4]}:{ECHO}", x_causeway=limits)
    listeners = {at["address"]: at for at in middle.application(made)["listeners"]}
    assert listeners[EDGE[4]]["not_carried"]["code"] == "limits"
    with middle.client:
        held = socket.create_connection((EDGE[4], port), timeout=10, source_address=(CLIENT[4], 0))
    with held:
        assert echo.echoes(held)
        assert not is_let_in(middle, port, CLIENT[4], EDGE[4])
        assert is_let_in(middle, port, OTHER, EDGE[4])
        assert echo.echoes(held)
    middle.edge.event(made, cause="limit_open")
    eventually(lambda: is_let_in(middle, port, CLIENT[4], EDGE[4]) or None)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_limits_by_as_number_are_the_engines_and_hold_for_all_of_its_clients(middle: Middle, protocol: str) -> None:
    port = next(ports)
    open_at_once = "connections" if protocol == "tcp" else "sessions"
    limits = {"limits": [{"of": "asn", open_at_once: 1}]}
    put = middle.edge.http.put("/api/v1/firewall/databases/asn", content="198.18.0.0/15,64500\n")
    assert put.status_code == 200
    made = middle.edge.create_application(f"{protocol}/{port}", f"{protocol}://{ORIGIN[4]}:{ECHO}", x_causeway=limits)
    listeners = {at["address"]: at for at in middle.application(made)["listeners"]}
    assert listeners[EDGE[4]]["not_carried"]["code"] == "limits"
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM

    def asks(client: str) -> socket.socket | None:
        with middle.client:
            made = socket.socket(type=kind)
        made.settimeout(1)
        made.bind((client, 0))
        try:
            made.connect((EDGE[4], port))
            made.send(b"who goes there")
            assert made.recv(100) == b"who goes there"
        except (TimeoutError, ConnectionResetError):
            made.close()
            return None
        return made

    held = asks(CLIENT[4])
    assert held
    assert asks(OTHER) is None, "another address of the same AS number"
    put = middle.edge.http.put("/api/v1/firewall/databases/asn", content=f"{CLIENT[4]}/32,64500\n{OTHER}/32,64501\n")
    assert put.status_code == 200
    other = asks(OTHER)
    assert other, "it is of another AS number now"
    held.close()
    other.close()
    middle.edge.delete_application(made)
    middle.edge.result("DELETE", "/api/v1/firewall/databases/asn")
