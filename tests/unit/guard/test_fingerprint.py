"""What an attack has in common: found where there is something, never at the cost of good packets."""

import random

import pytest
from guard_frames import SYN, tcp, udp
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_edge import (
    EDGE,
    Draw,
    good_data,
    good_datagram,
    good_syn,
    random_datagram,
    spoofed_syn,
    tool_datagram,
    tool_syn,
)

from causeway.guard.fingerprint import find, sentence
from causeway.guard.match import compiled
from causeway.guard.packet import Packet, read
from causeway.guard.reservoir import ENOUGH, Reservoir, bound


def drawn(draw: Draw, count: int, seed: int = 5) -> list[Packet]:
    numbers = random.Random(seed)
    return [packet for _ in range(count) if (packet := read(draw(numbers))) is not None]


def good(syns: int = 4_000, others: int = 1_000, datagrams: int = 4_000) -> Reservoir:
    reservoir = Reservoir()
    for draw, count in ((good_data, others), (good_syn, syns), (good_datagram, datagrams)):
        for packet in drawn(draw, count):
            reservoir._keep(packet)
    return reservoir


GOOD = good()


@pytest.mark.parametrize(
    ("tool", "said"), [(tool_syn, ("TTL 241", "window 512")), (tool_datagram, ("payload ffffffff676574737461747573",))]
)
def test_a_tool_is_known_by_what_it_does_the_same_every_time(tool: Draw, said: tuple[str, ...]) -> None:
    finding = find(drawn(tool, 1_000), GOOD)
    assert finding is not None and finding.may_drop
    assert (finding.share, finding.good_matched) == (1.0, 0)
    assert finding.bound == bound(finding.good_samples) == 3 / 4_000
    assert any(words in sentence(finding.match) for words in said), sentence(finding.match)


@pytest.mark.parametrize("nothing", [spoofed_syn, random_datagram])
def test_what_is_random_has_nothing_in_common(nothing: Draw) -> None:
    assert find(drawn(nothing, 2_000), GOOD) is None


@pytest.mark.parametrize("clone", [good_syn, good_datagram])
def test_a_clone_of_a_good_client_is_not_told_from_it(clone: Draw) -> None:
    finding = find(drawn(clone, 2_000, seed=9), GOOD)
    assert finding is None or not finding.may_drop


def test_one_good_client_that_is_like_the_attack_is_enough_to_refuse() -> None:
    reservoir = good()
    for packet in drawn(tool_syn, 1):
        reservoir._keep(packet)
    finding = find(drawn(tool_syn, 1_000), reservoir)
    assert finding is None or not finding.may_drop


def test_few_good_packets_prove_too_little() -> None:
    for known in (0, 30, 500, ENOUGH - 1):
        finding = find(drawn(tool_syn, 1_000), good(syns=known))
        assert finding is None or not finding.may_drop, known
    assert (finding := find(drawn(tool_syn, 1_000), good(syns=ENOUGH))) is not None and finding.may_drop


def test_good_packets_of_another_kind_prove_nothing_of_syns() -> None:
    finding = find(drawn(tool_syn, 1_000), good(syns=10, others=20_000))
    assert finding is None or not finding.may_drop


def test_a_wide_attack_is_not_known_by_its_sources_and_a_narrow_one_is() -> None:
    def of_network(numbers: random.Random) -> bytes:
        return udp(f"203.0.113.{numbers.randint(1, 250)}", EDGE, sport=numbers.randint(1, 65_535),
                   payload=numbers.randbytes(numbers.randint(0, 400)), hops=numbers.randint(30, 200))  # fmt: skip

    assert (narrow := find(drawn(of_network, 1_000), GOOD)) is not None
    assert narrow.match.source == "203.0.113.0/24"
    assert (wide := find(drawn(tool_syn, 1_000), GOOD)) is not None and wide.match.source is None


def test_amplified_answers_are_known_by_their_port() -> None:
    def answer(numbers: random.Random) -> bytes:
        source = f"{numbers.randint(1, 223)}.{numbers.randint(0, 255)}.0.1"
        return udp(source, EDGE, sport=389, payload=numbers.randbytes(numbers.randint(100, 900)),
                   hops=numbers.randint(30, 200))  # fmt: skip

    finding = find(drawn(answer, 1_000), GOOD)
    assert finding is not None and finding.match.source_ports == (389, 389)


_frames = st.builds(
    lambda hops, window, sport, net: tcp(f"{net}.0.2.1", EDGE, SYN, hops=hops, window=window, sport=sport),
    st.sampled_from([50, 51, 60, 200]), st.sampled_from([512, 1_024, 64_240]), st.sampled_from([1, 2, 3]),
    st.sampled_from([10, 20, 30]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(_frames, min_size=1, max_size=40), st.lists(_frames, min_size=1, max_size=6), st.randoms())
def test_no_rule_that_may_drop_fits_a_good_packet(kinds: list[bytes], bad: list[bytes], numbers: random.Random) -> None:
    reservoir = Reservoir()
    for at in range(ENOUGH):
        packet = read(kinds[at % len(kinds)])
        assert packet is not None
        reservoir._keep(packet)
    attack = [packet for _ in range(200) if (packet := read(numbers.choice(bad))) is not None]
    finding = find(attack, reservoir)
    if finding is not None and finding.may_drop:
        fits = compiled(finding.match)
        assert not any(fits(packet) for packet in reservoir)
    assert find(attack, reservoir) == finding
