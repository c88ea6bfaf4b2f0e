"""IP access rules and limits in the kernel's guard: the blocked cost nothing, everybody else keeps the fast path.

Nothing is set but the rules: `--guard auto` attaches for them.
"""

import itertools
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import echo
from support.carried import CLIENT, EDGE, ORIGIN, Middle
from support.echo import ask_udp, start_echo
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs

ECHO = 7000
OTHER = {4: "198.18.1.3", 6: "2001:db8:1::3"}  # a second address of the client
SOON_S = 0.9  # a SYN that was dropped comes again after a second
ports = itertools.count(9700)


@pytest.fixture(scope="module")
def middle(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Middle]:
    made = Middle(namespaces, module_programs, tmp_path_factory.mktemp("data"))
    with made.client:
        device = next(name for _, name in socket.if_nameindex() if name != "lo")
    made.client.ip("address", "add", f"{OTHER[4]}/24", "dev", device)
    made.client.ip("address", "add", f"{OTHER[6]}/64", "dev", device, "nodad")
    made.edge.start()
    for family in (4, 6):
        start_echo(module_programs, ORIGIN[family], ECHO, inside=made.origin)
    yield made
    made.edge.close()
    made.edge.stop()
    made.flush()


def create(middle: Middle, protocol: str = "tcp", family: int = 4, **fields: Any) -> tuple[str, int]:
    port = next(ports)
    host = ORIGIN[4] if family == 4 else f"[{ORIGIN[6]}]"
    given = {"ip_firewall": True, **fields}
    made = middle.edge.create_application(f"{protocol}/{port}", f"{protocol}://{host}:{ECHO}", **given)
    return made, port


def rule(middle: Middle, target: str, value: str, mode: str = "block", **extension: Any) -> str:
    rules = middle.edge.applications.replace("spectrum/apps", "firewall/access_rules/rules")
    body = {"configuration": {"target": target, "value": value}, "mode": mode, "x_causeway": extension}
    return f"{rules}/{middle.edge.result('POST', rules, body)['id']}"


def reaches(middle: Middle, port: int, family: int = 4, client: str | None = None) -> bool:
    """Is an echo answered? A client that is blocked hears nothing at all: neither an answer nor a reset."""
    try:
        with middle.client:
            made = socket.create_connection((EDGE[family], port), SOON_S, (client or CLIENT[family], 0))
        with made:
            return echo.echoes(made)
    except TimeoutError:
        return False


def listener(middle: Middle, application: str, family: int = 4) -> dict[str, Any]:
    found = middle.application(application)["listeners"]
    return next(at for at in found if at["address"] == EDGE[family])


def is_carried(middle: Middle, application: str, family: int = 4) -> bool:
    at = listener(middle, application, family)
    assert at["judged"] is None or at["judged"]["by"] == "kernel", at
    return bool(at["carrier"] == "kernel" and at["not_carried"] is None)


def promoted(middle: Middle) -> int:
    return int(middle.path()["verdicts"].get("promoted", 0))


def verdict(middle: Middle, application: str, name: str) -> int:
    guard = middle.edge.status()["edges"][0]["guard"]
    found = [at["verdicts"] for at in guard["applications"] if at["application"] == application]
    return int(found[0].get(name, 0)) if found else 0


def hits(middle: Middle, made: str) -> int:
    id_ = made.rsplit("/", 1)[1]
    return int(
        next(r["x_causeway"]["hits"] for r in middle.edge.result("GET", "/api/v1/firewall/rules") if r["id"] == id_)
    )


@pytest.mark.parametrize("family", [4, 6])
def test_a_blocked_client_never_reaches_the_origin_and_all_others_keep_the_fast_path(
    middle: Middle, family: int
) -> None:
    application, port = create(middle, family=family)
    made = rule(middle, "ip" if family == 4 else "ip6", CLIENT[family])
    before = promoted(middle)
    assert is_carried(middle, application, family)
    assert not reaches(middle, port, family)
    assert promoted(middle) == before, "no flow was begun"
    assert verdict(middle, application, "blocked") >= 1
    assert hits(middle, made) >= 1
    assert reaches(middle, port, family, OTHER[family])
    assert promoted(middle) == before + 1, "by the kernel"
    middle.edge.result("DELETE", made)
    began_s = time.monotonic()
    assert reaches(middle, port, family), "the first packet after the answer passes"
    assert time.monotonic() - began_s < SOON_S


def test_one_of_a_blocked_network_is_allowed_and_carried(middle: Middle) -> None:
    application, port = create(middle)
    rules = [rule(middle, "ip_range", "198.18.1.0/24"), rule(middle, "ip", OTHER[4], "whitelist")]
    before = promoted(middle)
    assert is_carried(middle, application)
    assert not reaches(middle, port)
    assert reaches(middle, port, client=OTHER[4])
    assert promoted(middle) == before + 1
    eventually(lambda: hits(middle, rules[1]) == 1)
    for made in rules:
        middle.edge.result("DELETE", made)


def test_rules_of_a_list_and_a_country_act_in_the_kernel_too(middle: Middle) -> None:
    application, port = create(middle)

    def put(what: str, text: str) -> None:
        assert middle.edge.http.put(f"/api/v1/firewall/{what}", content=text).status_code == 200

    put("databases/country", "198.18.0.0/15,DE\n")
    by_country = rule(middle, "country", "DE")
    assert is_carried(middle, application)
    assert not reaches(middle, port)
    put("lists/partners", f"{CLIENT[4]}\n")
    by_list = rule(middle, "list", "partners", "whitelist")
    assert reaches(middle, port), "an address is more specific than a country"
    put("lists/partners", "192.0.2.1\n")
    assert not reaches(middle, port)
    put("databases/country", "192.0.2.0/24,DE\n")
    assert reaches(middle, port)
    assert is_carried(middle, application)
    for made in (by_country, by_list):
        middle.edge.result("DELETE", made)
    middle.edge.result("DELETE", "/api/v1/firewall/lists/partners")


def test_rules_of_some_ports_alone_are_the_engines_which_says_so(middle: Middle) -> None:
    first = next(ports)
    next(ports)
    application = middle.edge.create_application(
        f"tcp/{first}-{first + 1}", f"tcp://{ORIGIN[4]}:{ECHO}-{ECHO + 1}", ip_firewall=True
    )
    made = rule(middle, "ip", CLIENT[4], ports=str(first))
    at = listener(middle, application)
    assert (at["carrier"], at["judged"]["by"], at["not_carried"]["code"]) == ("engine", "engine", "ip_firewall")
    assert "some of its ports" in at["not_carried"]["message"]
    middle.edge.result("DELETE", made)
    assert is_carried(middle, application)


def test_the_engine_is_spared_the_blocked_as_well_and_open_connections_go_on(middle: Middle) -> None:
    application, port = create(middle, x_causeway={"carrier": "engine"})
    with middle.client:
        held = socket.create_connection((EDGE[4], port), 10, (CLIENT[4], 0))
    with held:
        assert echo.echoes(held)
        made = rule(middle, "ip", CLIENT[4])
        at = listener(middle, application)
        assert (at["carrier"], at["judged"]) == ("engine", {"by": "kernel", "reason": None})
        before = middle.application(application)["counters"]["firewall_refused_total"]
        assert not reaches(middle, port)
        assert verdict(middle, application, "blocked") >= 1
        assert middle.application(application)["counters"]["firewall_refused_total"] == before, "it has seen nothing"
        assert echo.echoes(held), "a rule is about new connections"
    middle.edge.result("DELETE", made)


def test_flows_of_the_kernel_go_on_and_are_cut_if_the_rule_says_so(middle: Middle) -> None:
    application, port = create(middle)
    with middle.client:
        held = socket.create_connection((EDGE[4], port), 10, (CLIENT[4], 0))
    with held:
        assert echo.echoes(held)
        made = rule(middle, "ip", CLIENT[4])
        assert echo.echoes(held), "a rule is about new connections"
        middle.edge.result("PATCH", made, {"x_causeway": {"drop_established": True}})
        with pytest.raises(ConnectionResetError):
            held.recv(1)
    assert middle.edge.event(application, cause="firewall_cut")["client_matched_ip_firewall"] == "BLOCK_IP"
    assert not reaches(middle, port)
    middle.edge.result("DELETE", made)


def test_datagrams_of_the_blocked_go_nowhere(middle: Middle) -> None:
    application, port = create(middle, "udp")
    made = rule(middle, "ip", CLIENT[4])
    assert is_carried(middle, application)
    with middle.client, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.bind((CLIENT[4], 0))
        client.settimeout(0.3)
        client.sendto(b"into the dark", (EDGE[4], port))
        with pytest.raises(TimeoutError):
            client.recv(100)
    assert verdict(middle, application, "blocked") == 1 == hits(middle, made)
    middle.edge.result("DELETE", made)
    with middle.client:
        assert ask_udp(port, EDGE[4], b"a datagram") == b"a datagram"


def test_new_connections_of_a_source_are_limited_by_the_kernel(middle: Middle) -> None:
    limits = {"limits": [{"of": "source", "ipv4_prefix": 32, "ipv6_prefix": 64, "connections_per_s": 3}]}
    application, port = create(middle, x_causeway=limits)
    assert is_carried(middle, application)
    before = promoted(middle)

    def connects(client: str) -> bool:
        try:
            with middle.client:
                socket.create_connection((EDGE[4], port), 0.1, (client, 0)).close()
        except TimeoutError:
            return False
        return True

    assert [connects(CLIENT[4]) for _ in range(6)].count(True) in (3, 4), (
        "3 at once, and a third of a second for one more"
    )
    assert connects(OTHER[4]), "another source has its own"
    assert verdict(middle, application, "rate") >= 2
    eventually(lambda: promoted(middle) > before)
    eventually(lambda: connects(CLIENT[4]) or None)


def test_open_connections_are_counted_by_the_engine_which_says_so(middle: Middle) -> None:
    application, _ = create(middle, x_causeway={"limits": [{"of": "source", "connections": 1}]})
    at = listener(middle, application)
    assert at["not_carried"]["code"] == "limits" and "open connections" in at["not_carried"]["message"]
    application, _ = create(middle, x_causeway={"limits": [{"of": "asn", "connections_per_s": 1}]})
    at = listener(middle, application)
    assert at["not_carried"]["code"] == "limits" and "by AS number" in at["not_carried"]["message"]


def test_a_block_holds_while_no_process_runs_and_after_it(middle: Middle) -> None:
    application, port = create(middle)
    made = rule(middle, "ip", CLIENT[4])
    assert not reaches(middle, port)
    assert middle.edge.program
    for pid in (middle.edge.program.pid, *middle.edge.children):
        os.kill(pid, signal.SIGKILL)
    middle.edge.program.wait()
    assert not reaches(middle, port)
    assert reaches(middle, port, client=OTHER[4]), "the kernel carries it past the rule"
    middle.edge.start()
    assert is_carried(middle, application)
    assert not reaches(middle, port)
    assert hits(middle, made) >= 1
    assert reaches(middle, port, client=OTHER[4])
    middle.edge.result("DELETE", made)
    assert reaches(middle, port)


def test_a_long_list_is_a_table_of_its_own_and_rules_beside_it_are_in_force_at_once(middle: Middle) -> None:
    application, port = create(middle)
    addresses = [f"203.{n >> 16}.{n >> 8 & 255}.{n & 255}\n" for n in range(0, 80_000, 2)]
    answer = middle.edge.http.put(
        "/api/v1/firewall/lists/long", content="".join([*addresses, f"{CLIENT[4]}\n", f"{OTHER[4]}\n"])
    )
    assert answer.status_code == 200, answer.text
    listed = rule(middle, "list", "long")
    assert is_carried(middle, application)
    assert not reaches(middle, port)
    excepted = rule(middle, "ip", OTHER[4], "whitelist")
    assert reaches(middle, port, client=OTHER[4]) and not reaches(middle, port)
    assert is_carried(middle, application)
    middle.edge.result("DELETE", excepted)
    assert not reaches(middle, port, client=OTHER[4])
    assert hits(middle, listed) >= 3
    middle.edge.result("DELETE", listed)
    assert reaches(middle, port)
    middle.edge.result("DELETE", "/api/v1/firewall/lists/long")
