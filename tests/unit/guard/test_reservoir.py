"""Which packets are good, and how many are kept."""

import random

from guard_frames import ACK, SYN, tcp, udp
from simulated_edge import CLIENTS, EDGE, good_data, good_syn, spoofed_syn

from causeway.guard.packet import Packet, read
from causeway.guard.reservoir import MOST, Reservoir, bound


def packet_of(frame: bytes) -> Packet:
    packet = read(frame)
    assert packet is not None
    return packet


def test_a_syn_is_good_once_its_sender_is_seen_in_a_two_way_flow() -> None:
    syn, data = packet_of(tcp("192.0.2.1", EDGE, SYN)), packet_of(tcp("192.0.2.1", EDGE, ACK))
    after, before = Reservoir(), Reservoir()
    assert after.add(syn, False) == [] and after.add(data, True) == [data, syn]
    assert before.add(data, True) == [data] and before.add(syn, False) == [syn]
    assert before.of("syn") == after.of("syn") == [syn]


def test_whoever_forges_an_address_is_further_away_and_not_good() -> None:
    reservoir = Reservoir()
    reservoir.add(packet_of(tcp("192.0.2.1", EDGE, ACK, hops=50)), True)
    assert reservoir.add(packet_of(tcp("192.0.2.1", EDGE, SYN, hops=240)), False) == []


def test_packets_of_nobody_are_never_kept() -> None:
    reservoir, numbers = Reservoir(), random.Random(3)
    for _ in range(20_000):
        reservoir.add(packet_of(spoofed_syn(numbers)), False)
        reservoir.add(packet_of(tcp("192.0.2.9", EDGE, ACK)), False)
    assert len(reservoir) == 0


def test_it_is_bounded_and_a_kind_that_comes_late_finds_room() -> None:
    reservoir, numbers = Reservoir(most=1_000), random.Random(3)
    for _ in range(20_000):
        reservoir.add(packet_of(good_data(numbers)), True)
    for _ in range(5_000):
        reservoir.add(packet_of(good_syn(numbers)), False)
    assert len(reservoir) <= 1_000 and len(reservoir.of("syn")) > 200
    reservoir.shrink(100)
    assert len(reservoir) <= 100
    assert MOST == 30_000


def test_the_newest_are_among_those_kept_after_a_long_time() -> None:
    reservoir = Reservoir(most=500)
    for at in range(30_000):
        reservoir.add(packet_of(udp("192.0.2.1", EDGE, sport=1_000 + at // 1_000)), True)
    assert max(packet.source_port or 0 for packet in reservoir) == 1_029
    assert len(CLIENTS) > 1_000


def test_the_rule_of_three() -> None:
    assert bound(0) is None
    assert (bound(2), bound(3_000), bound(30_000)) == (1.0, 0.001, 0.0001)
