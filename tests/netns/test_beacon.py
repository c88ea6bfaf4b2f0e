"""The interface that routes lead to, and the rules that pass connections on, in a network of their own."""

import json
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest
from support.edge import Running
from support.namespaces import Namespace, Namespaces
from support.patience import eventually
from support.program import need

from causeway.edge.passing import NoPassing, Passing, Stage
from causeway.supervise.beacon import ALONE_S, DEVICE, STEADY_S, Beacon, NoBeacon


@pytest.fixture
def place(namespaces: Namespaces) -> Namespace:
    return namespaces.make()


@pytest.fixture
def beacon(place: Namespace) -> Iterator[Beacon]:
    with place:
        made = Beacon()
        yield made
        made.close()


def has_link() -> bool:
    [shown] = json.loads(subprocess.run(["ip", "-j", "link", "show", DEVICE], capture_output=True, check=True).stdout)
    assert "UP" in shown["flags"]
    return "LOWER_UP" in shown["flags"]


def test_it_is_lit_while_it_is_wanted_and_somebody_serves(beacon: Beacon) -> None:
    assert not has_link()
    beacon.tend(0, is_serving=True)
    assert not has_link()
    beacon.is_wanted = True
    assert beacon.tend(1, is_serving=True)
    assert has_link()
    beacon.is_wanted = False
    assert beacon.tend(2, is_serving=True)
    assert not has_link()
    beacon.is_wanted = True
    assert beacon.tend(3, is_serving=True)  # what was asked for has its own pace


def test_a_process_that_is_replaced_in_time_does_not_darken_it(beacon: Beacon) -> None:
    beacon.is_wanted = True
    beacon.tend(0, is_serving=True)
    assert not beacon.tend(ALONE_S - 0.1, is_serving=False)
    beacon.tend(ALONE_S, is_serving=True)
    assert has_link()
    assert beacon.tend(2 * ALONE_S, is_serving=False)
    assert not has_link()


def test_after_it_went_dark_for_want_of_a_process_it_stays_so_for_a_while(beacon: Beacon) -> None:
    beacon.is_wanted = True
    beacon.tend(0, is_serving=True)
    beacon.tend(ALONE_S, is_serving=False)
    assert not beacon.tend(ALONE_S + STEADY_S - 0.1, is_serving=True)
    assert beacon.tend(ALONE_S + STEADY_S, is_serving=True)
    assert has_link()


def test_there_is_one_of_it(beacon: Beacon) -> None:
    with pytest.raises(NoBeacon, match="another causeway has it"):
        Beacon()


def test_an_edge_that_may_not_have_one_serves_and_says_that_it_announces_nothing(
    place: Namespace, make_edge: Callable[..., Running]
) -> None:
    need("setpriv")
    place.ip("address", "add", "198.18.100.7/32", "dev", "lo")
    flags = ("--edge-ip", "198.18.100.7", "--anycast", "198.18.100.7/32", "--bird-socket", "/nonexistent/bird.ctl")
    include = ("--bird-include", "/nonexistent/causeway.conf")
    edge = make_edge(*flags, *include, inside=place, under=("setpriv", "--bounding-set", "-net_admin")).start()
    assert "anycast: nothing is announced: " in edge.output
    assert "CAP_NET_ADMIN" in edge.output
    eventually(lambda: "cannot be written" in edge.status()["edges"][0]["anycast"]["trouble"])
    assert edge.stop() == 0


@pytest.fixture
def passing(place: Namespace) -> Iterator[Passing]:
    need("nft")
    prefixes = (ip_network("198.18.100.0/24"), ip_network("198.18.7.7/32"), ip_network("2001:db8:7::/48"))
    with place:
        yield Passing(prefixes, (ip_address("198.18.4.2"), ip_address("2001:db8:4::2")))


def ruleset() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True, text=True).stdout


def test_connections_of_both_families_are_passed_on_until_that_ends(passing: Passing) -> None:
    assert len(passing.prefixes) == 3
    passing.to(Stage.LEARNING)
    assert ruleset().count("update @kept") == 2
    passing.to(Stage.PASSING)
    passing.to(Stage.PASSING)  # once more is the same
    assert ruleset().count("!= @kept") == 2
    for words in ("dup to 198.18.4.2", "dup to 2001:db8:4::2", "198.18.100.0/24", "2001:db8:7::/48"):
        assert ruleset().count(words) >= 1
    assert ruleset().count("tcp flags syn") == 2
    passing.to(Stage.ENDING)
    assert "tcp flags syn" not in ruleset()
    assert ruleset().count("dup to") == 2
    passing.end()
    passing.end()
    assert ruleset() == ""


def test_where_nft_is_not_installed_that_is_said(passing: Passing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NoPassing, match="install nftables"):
        passing.to(Stage.LEARNING)
