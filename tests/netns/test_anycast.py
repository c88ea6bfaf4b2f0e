"""One address in two PoPs, through real BIRDs: who serves is announced, who does not is not."""

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest
from support.anycast import START_S, Stream, World, soon
from support.echo import echoes
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs

from causeway.supervise.beacon import ALONE_S

pytestmark = pytest.mark.alone

ELSEWHERE_S = 3.0  # promised: from the end of a PoP until new connections land on another one


@pytest.fixture(scope="module")
def world(namespaces: Namespaces, module_programs: Programs) -> Iterator[World]:
    made = World(namespaces, module_programs)
    yield made
    made.close()


def test_it_is_announced_once_the_edge_serves(world: World) -> None:
    ams, fra = world.pops.values()
    ams.heal()
    fra.heal()
    eventually(ams.include.exists, START_S)
    ams.await_readiness()
    assert world.ways() == []

    ams.serve()
    eventually(lambda: world.ways() == ["ams"], 10)
    told = world.routes()
    for word in ("BGP.community: (64512,100)", "BGP.med: 2"):
        assert word in told
    assert ams.anycast() == {
        "prefixes": [{"prefix": "198.18.100.7/32", "state": "announced", "communities": ["64512:100"], "med": 2}],
        "trouble": None,
    }
    fra.serve()
    eventually(lambda: world.ways() == ["ams", "fra"], 10)
    assert world.ask() == "ams"


@pytest.fixture
def both(world: World) -> World:
    """Both PoPs announce, and the nearer one is taken."""
    for pop in world.pops.values():
        pop.heal()
    for pop in world.pops.values():
        pop.await_readiness()
    eventually(lambda: world.ways() == ["ams", "fra"], 30)
    eventually(lambda: world.ask() == "ams")
    return world


def test_new_connections_land_on_another_pop_when_one_is_gone(both: World) -> None:
    with Stream(both).flowing() as stream:
        time.sleep(0.5)
        gone_s = time.monotonic()
        both.pops["ams"].vanish()
        eventually(lambda: any(told == "fra" for _, _, told in stream.results), 10)
    took_s = min(end for _, end, told in stream.results if told == "fra") - gone_s
    late = [told for began_s, _, told in stream.results if began_s > gone_s + ELSEWHERE_S and told != "fra"]
    print(f"elsewhere {took_s:.2f} s after the end of a PoP, {len(stream.failures())} connections failed")
    assert took_s < ELSEWHERE_S
    assert not late
    assert both.ways() == ["fra"]


def test_a_process_that_dies_and_is_replaced_moves_nobody(both: World) -> None:
    ams = both.pops["ams"]
    os.kill(ams.edge.serving_pid, signal.SIGKILL)
    seen = []

    def is_back() -> bool:
        seen.append(both.ways())
        return both.ask() == "ams"

    took_s = soon(is_back, 30)
    print(f"served again {took_s:.2f} s after kill -9; the routes were looked at {len(seen)} times")
    if took_s < ALONE_S:  # else this machine is too busy to say, and the route may go
        assert all(ways == ["ams", "fra"] for ways in seen)
    ams.await_readiness()


def test_when_all_of_causeway_is_dead_its_route_goes(both: World) -> None:
    both.pops["ams"].edge.kill_all()
    took_s = soon(lambda: both.ways() == ["fra"], ELSEWHERE_S)
    assert both.ask() == "fra"
    print(f"withdrawn {took_s:.2f} s after kill -9 of everything")


def test_an_upgrade_moves_nobody(both: World) -> None:
    ams = both.pops["ams"]
    before = ams.edge.serving_pid
    with Stream(both, every_s=0.05).flowing() as stream:
        assert ams.edge.program
        ams.edge.program.send(signal.SIGHUP)
        eventually(lambda: ams.edge.serving_pid != before, START_S)
        time.sleep(1.0)
    assert {told for _, _, told in stream.results} == {"ams"}
    assert both.ways() == ["ams", "fra"]


def test_a_stop_loses_no_connection(both: World) -> None:
    """Those that exist end by themselves where they are; new ones are passed on, and stay there when routes move."""
    ams = both.pops["ams"]
    old = [both.connect() for _ in range(20)]
    assert all(greeted(connection) == "ams" for connection in old)
    with Stream(both).flowing() as stream:
        time.sleep(0.3)
        assert ams.edge.program
        ams.edge.program.send(signal.SIGTERM)
        eventually(lambda: both.ask() == "fra")
        passed_on = [both.connect() for _ in range(20)]
        assert all(greeted(connection) == "fra" for connection in passed_on)
        assert both.ways() == ["ams", "fra"]
        for connection in old:
            assert echoes(connection)
            connection.close()
        assert ams.edge.program.wait(30) == 0
        assert both.ways() == ["fra"]
        assert all(echoes(connection) for connection in passed_on)
    assert stream.failures() == []
    print(f"{len(stream.results)} new connections through a stop, the longest gap {stream.gap_s() * 1000:.0f} ms")
    for connection in passed_on:
        connection.close()


def greeted(connection: socket.socket) -> str:
    return connection.recv(4).decode().strip()


def test_a_bird_that_comes_back_announces_what_is_served(both: World) -> None:
    ams = both.pops["ams"]
    ams.bird.end()
    eventually(lambda: both.ways() == ["fra"], ELSEWHERE_S)
    eventually(lambda: "BIRD cannot be reached" in str(ams.anycast()["trouble"]), 10)
    ams.bird.start()
    eventually(lambda: both.ways() == ["ams", "fra"], 15)
    eventually(lambda: ams.anycast()["trouble"] is None, 10)


def test_a_bird_conf_that_is_refused_is_told_and_does_not_hold_a_withdrawal_up(both: World) -> None:
    ams = both.pops["ams"]
    right = ams.bird.conf.read_text()
    ams.bird.conf.write_text(right + "nonsense;\n")
    try:
        ams.edge.stop(within_s=30)
        assert "BIRD refuses its configuration (8002)" in ams.edge.output
        assert both.ways() == ["fra"]
        ams.heal()
        ams.await_readiness()
        eventually(lambda: "refuses its configuration" in str(ams.anycast()["trouble"]), 10)
    finally:
        ams.bird.conf.write_text(right)
    eventually(lambda: ams.anycast()["trouble"] is None, 15)


def test_a_bird_that_does_not_include_the_file_is_told(both: World) -> None:
    ams = both.pops["ams"]
    right = ams.bird.conf.read_text()
    ams.bird.conf.write_text("\n".join(line for line in right.splitlines() if not line.startswith("include")))
    try:
        ams.bird.ask("configure")
        eventually(lambda: "bird.conf must include it" in str(ams.anycast()["trouble"]), 10)
    finally:
        ams.bird.conf.write_text(right)
    ams.bird.ask("configure")
    eventually(lambda: ams.anycast()["trouble"] is None, 15)
