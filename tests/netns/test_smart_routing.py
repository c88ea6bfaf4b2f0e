"""Smart routing in a lab: real edges, control and nats-server over an emulated WAN, and lines that get worse."""

import json
import os
import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.patience import eventually
from support.program import need

from causeway.lab import Lab

pytestmark = pytest.mark.alone

FAR_MS, NEAR_MS, OTHER_MS = 120, 20, 50
PORT, HOST = 7000, "echo.example.net"

WORLD = f"""
[network]
control = "par"
flags = ["--rollout-bake-s", "1"]

[nodes.par]
kind = "pop"
[nodes.ams]
kind = "pop"
[nodes.fra]
kind = "pop"
[nodes.tokyo]
kind = "origin"

[[links]]
between = ["par", "tokyo"]
rtt_ms = {FAR_MS}
[[links]]
between = ["ams", "tokyo"]
rtt_ms = {NEAR_MS}
[[links]]
between = ["fra", "tokyo"]
rtt_ms = {OTHER_MS}
[[links]]
between = ["par", "ams"]
rtt_ms = {NEAR_MS}
[[links]]
between = ["par", "fra"]
rtt_ms = {NEAR_MS}
[[links]]
between = ["ams", "fra"]
rtt_ms = {NEAR_MS}
"""


class World:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def command(self, *words: str) -> str:
        done = self.lab.run("par", "causeway", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def routes(self) -> dict[str, dict[str, Any]]:
        """By the edge that they begin at."""
        return {one["edge"]: one for one in json.loads(self.command("routes", "-o", "json"))}

    def path(self, edge: str = "local") -> list[str] | None:
        found = self.routes().get(edge)
        return found["path"] if found else None

    def ask(self, after_s: float = 0.0) -> float:
        """From a client beside the first edge: milliseconds until the answer to its first byte is there."""
        time.sleep(after_s)  # as clients come, so that the edge can have a connection made meanwhile
        with self.lab.inside("par"):
            began = time.monotonic()
            with socket.create_connection((self.lab.world.node("par").address, PORT), timeout=10) as connection:
                connection.sendall(b"x")
                assert connection.recv(1) == b"x"
                return (time.monotonic() - began) * 1000

    def takes(self, path: list[str], within_s: float = 20) -> None:
        """Wait until it is the way of new flows, with flows going on meanwhile."""

        def is_taken() -> bool:
            self.ask()
            return self.path() == path

        eventually(is_taken, within_s, every_s=0.3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need("ip", "nsenter", "nats-server")
    if os.geteuid() or not Path("/dev/net/tun").exists():
        pytest.skip("a lab needs root and /dev/net/tun")
    with Lab.up(WORLD, tmp_path_factory.mktemp("smart") / "lab", f"smart-{os.getpid()}") as lab:
        made = World(lab)
        made.command("zones", "create", "example.net")
        made.command(
            *("apps", "create", "--dns", HOST, "--protocol", f"tcp/{PORT}"),
            *("--origin", f"{lab.world.node('tokyo').address}:7"),
        )
        eventually(lambda: made.ask() > 0, 20)
        yield made


def test_without_it_flows_go_direct_and_nothing_is_measured(world: World) -> None:
    assert statistics.median(world.ask() for _ in range(3)) >= 2 * FAR_MS
    assert world.routes() == {}


def test_switched_on_flows_go_the_way_that_is_faster_within_ten_seconds(world: World) -> None:
    began = time.monotonic()
    world.command("apps", "update", HOST, "--smart-routing")
    world.takes(["ams"], 15)
    print(f"moved after {time.monotonic() - began:.1f} s")
    took_ms = statistics.median(world.ask(after_s=0.2) for _ in range(7))
    print(f"first byte after {took_ms:.0f} ms")
    # The connection to ams was there: one round trip to it, two from it to the origin.
    assert took_ms < 3 * NEAR_MS + 15
    route = world.routes()["local"]
    assert route["gain_ms"] > (FAR_MS - 2 * NEAR_MS) / 2, route
    explained = world.command("routes", "explain", HOST, "--from", "local")
    assert "ams  (in use)" in explained and "direct" in explained and "origin" in explained


def test_what_routing_is_worth_is_told_from_flows_of_both_kinds_and_apart_from_ready_connections(world: World) -> None:
    world.takes(["ams"])

    def gains() -> dict[str, Any]:
        world.ask()
        [found] = json.loads(world.command("routes", "gains", "--from", "local", "--to", HOST, "-o", "json"))
        return dict(found)

    few = gains()
    if few["direct"]["count"] < 20:
        assert few["gain"]["mean_ms"] is None and "too few" in few["gain"]["reason"], few
    with ThreadPoolExecutor(8) as clients:  # one of 64 goes direct
        list(clients.map(lambda _: world.ask(), range(64 * 24)))
    eventually(lambda: gains()["gain"]["mean_ms"] is not None, 15, every_s=0.5)
    told = gains()
    print(world.command("routes", "gains", "--from", "local"))
    gain = told["gain"]
    assert told["path"] == ["ams"]
    assert sum(one["count"] for one in told["over"]["histogram"]) == told["over"]["count"] > 1_000
    assert abs(told["direct"]["p50_ms"] - 2 * FAR_MS) < 2 * FAR_MS / 8 + 10, told["direct"]
    assert abs(told["over"]["p50_ms"] - 3 * NEAR_MS) < 3 * NEAR_MS / 8 + 10, told["over"]
    assert abs(gain["routing_ms"] - (FAR_MS - 2 * NEAR_MS)) < 15, gain  # one round trip of each
    assert abs(gain["connection_ms"] - (FAR_MS - NEAR_MS)) < 40, gain  # and a handshake with the origin from nearer
    assert abs(gain["routing_ms"] + gain["connection_ms"] - gain["mean_ms"]) < 0.01


def test_what_control_says_outlives_control_for_a_while_and_a_cut_is_gone_round_without_it(world: World) -> None:
    world.takes(["ams"])
    world.lab.fail("par", "ams")
    began = time.monotonic()
    failed = 0

    def is_gone_round() -> bool:
        nonlocal failed
        try:
            return world.ask() < 2 * FAR_MS
        except OSError:
            failed += 1
            return False

    eventually(is_gone_round, 10, every_s=0.02)
    print(f"gone round after {time.monotonic() - began:.2f} s, {failed} failed meanwhile")
    assert failed <= 4  # those whose bytes were under way
    world.takes(["fra"], 60)
    world.lab.heal("par", "ams")
    world.takes(["ams"], 120)  # first it has to find its way back to the exchange


def test_a_line_that_gets_slow_is_left_and_taken_again_when_it_is_well(world: World) -> None:
    world.takes(["ams"])
    world.lab.link("ams", "tokyo", rtt_ms=300)
    began = time.monotonic()
    world.takes(["fra"], 60)
    print(f"left after {time.monotonic() - began:.1f} s")
    world.lab.link("ams", "tokyo", rtt_ms=NEAR_MS)
    began = time.monotonic()
    world.takes(["ams"], 120)
    print(f"taken again after {time.monotonic() - began:.1f} s")


def test_an_origin_that_this_edge_cannot_reach_is_reached_through_another(world: World) -> None:
    world.takes(["ams"])
    world.lab.fail("ams", "tokyo")
    world.lab.fail("par", "tokyo")
    began = time.monotonic()

    def is_reached() -> bool:
        try:
            return world.ask() < 10_000
        except OSError:
            return False

    eventually(is_reached, 20, every_s=0.05)
    print(f"reached through fra after {time.monotonic() - began:.1f} s")
    world.takes(["fra"], 30)
    world.lab.heal("ams", "tokyo")
    world.lab.heal("par", "tokyo")
    world.takes(["ams"], 60)


def test_its_zone_switches_it_for_an_application_that_says_nothing_of_it(world: World) -> None:
    world.command("apps", "update", HOST, "--no-smart-routing")
    eventually(lambda: world.routes() == {}, 10)
    world.command("zones", "update", "example.net", "--smart-routing")
    world.takes(["ams"], 30)
    assert "ams  (in use)" in world.command("explain", HOST, "--from", "local")
    world.command("zones", "update", "example.net", "--no-smart-routing")
    eventually(lambda: world.ask() >= 2 * FAR_MS, 10)
    eventually(lambda: world.routes() == {}, 10)
    world.command("apps", "update", HOST, "--smart-routing")
    world.takes(["ams"], 30)


def test_switched_off_they_go_direct_again(world: World) -> None:
    world.command("apps", "update", HOST, "--no-smart-routing")
    eventually(lambda: world.ask() >= 2 * FAR_MS, 10)
    eventually(lambda: world.routes() == {}, 10)
