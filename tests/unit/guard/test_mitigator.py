"""Whole attacks in virtual time: what is decided, how soon, and what must not be."""

import random
import socket

import pytest
from guard_frames import tcp
from simulated_edge import (
    EDGE,
    Draw,
    Edge,
    Stream,
    good_ack,
    good_data,
    good_datagram,
    good_syn,
    people,
    random_datagram,
    spoofed_syn,
    stray_ack,
    talkers,
    tool_datagram,
    tool_syn,
)

from causeway.guard.rules import MOST_RULES
from causeway.model.mitigation import Hold, Plan

START_S = 100.0
LEARNT_S = 400.0  # with a guard that is always there: good packets are known


def edge_of(*streams: Stream, **more: object) -> Edge:
    edge = Edge(streams=[*people(), *talkers(), *streams], **more)  # type: ignore[arg-type]
    edge.run(START_S)
    return edge


def first(edge: Edge, wanted: str) -> float:
    """Seconds from the start of the attack to the first plan that has it."""
    for at_s, plan in edge.plans:
        parts = ("cookies", "state", "no_fragments", "rates")
        held = {name for hold in plan.holds for name in parts if getattr(hold, name)}
        if wanted in held or wanted in {rule.action for rule in plan.rules}:
            return at_s - START_S
    return float("inf")


def to_address(draw: Draw, destination: str) -> Draw:
    def drawn(numbers: random.Random) -> bytes:
        frame = draw(numbers)
        return frame[:30] + socket.inet_aton(destination) + frame[34:]

    return drawn


def drop_rules(edge: Edge) -> list[str]:
    return [rule.id for _, plan in edge.plans for rule in plan.rules if rule.action == "drop"]


def test_nothing_is_planned_in_peace() -> None:
    edge = edge_of()
    edge.run(300)
    assert edge.plans == [] and edge.attacks == {}


@pytest.mark.parametrize("is_fast", [True, False], ids=["fast path", "engine"])
@pytest.mark.parametrize("rate", [5_000, 1_000_000])
def test_a_spoofed_syn_flood_meets_cookies_within_a_second(rate: float, is_fast: bool) -> None:
    edge = edge_of(Stream("web", spoofed_syn, rate, since_s=START_S), is_fast=is_fast)
    edge.run(START_S + 10)
    assert first(edge, "cookies") <= 1.0
    assert edge.lost_good == 0 and drop_rules(edge) == []
    [attack] = edge.attacks.values()
    assert (attack.application, attack.kind) == ("web", "spoofed_syn")
    assert attack.detected_after_ms <= 1_000 and attack.mitigated_after_ms <= 1_500
    assert attack.ended_unix_ms is None and attack.evidence


def test_a_flood_of_one_tool_gets_a_rule_where_good_packets_are_known() -> None:
    edge = edge_of(Stream("web", tool_syn, 1_000_000, since_s=700), is_guarded=True)
    edge.run(710)
    assert any(hold.cookies for hold in edge.plan.holds)
    [attack] = edge.attacks.values()
    [rule] = attack.rules
    assert rule.action == "drop" and rule.application == "web" and rule.match.flags == (0x12, 2)
    assert attack.good_samples >= 3_000 and attack.false_positive_bound == 3 / attack.good_samples
    assert edge.lost_good == 0


def test_a_flood_of_one_tool_meets_cookies_alone_where_too_few_good_packets_are_known() -> None:
    edge = edge_of(Stream("web", tool_syn, 1_000_000, since_s=START_S))
    edge.run(START_S + 30)
    assert first(edge, "cookies") <= 2.0
    assert drop_rules(edge) == []


def test_random_datagrams_are_limited_within_two_seconds_and_sessions_go_on() -> None:
    edge = edge_of(Stream("game", random_datagram, 1_000_000, since_s=START_S, protocol="udp"))
    edge.run(START_S + 10)
    assert first(edge, "rates") <= 2.0
    assert drop_rules(edge) == []
    [attack] = edge.attacks.values()
    assert (attack.kind, attack.application) == ("udp", "game")


def test_packets_of_no_connection_are_dropped_at_once() -> None:
    edge = edge_of(Stream("web", stray_ack, 1_000_000, since_s=START_S))
    edge.run(START_S + 5)
    assert first(edge, "state") <= 1.0
    assert edge.lost_good == 0


def test_a_crowd_is_not_an_attack() -> None:
    edge = edge_of(
        Stream("web", good_syn, 1_800, completes=True, since_s=START_S),
        Stream("web", good_data, 18_000, is_invited=True, since_s=START_S),
        Stream("game", good_datagram, 180, completes=True, protocol="udp", since_s=START_S),
        Stream("game", good_datagram, 9_000, is_invited=True, protocol="udp", since_s=START_S),
    )
    edge.run(START_S + 60)
    assert edge.attacks == {}
    assert all(not plan.holds and not plan.rules for _, plan in edge.plans)
    assert edge.lost_good == 0


@pytest.mark.parametrize("is_fast", [True, False], ids=["fast path", "engine"])
@pytest.mark.parametrize("per_s", [1_000, 3_000])
def test_a_crowd_of_short_connections_is_not_an_attack_however_its_packets_are_sampled(
    per_s: int, is_fast: bool
) -> None:
    """Few of its packets are seen, and by chance many SYNs among them; the engine has counted its connections."""
    edge = edge_of(
        Stream("web", good_syn, per_s, completes=True, since_s=START_S),
        Stream("web", good_ack, per_s, is_open=True, since_s=START_S),
        Stream("web", good_data, 6 * per_s, is_invited=True, since_s=START_S),
        is_fast=is_fast,
    )
    edge.run(START_S + 200)
    assert edge.attacks == {}
    assert all(not plan.holds and not plan.rules for _, plan in edge.plans)


def test_a_crowd_beside_a_flood_of_another_application_is_not_taken_for_one_from_a_handful_of_samples() -> None:
    edge = edge_of(
        Stream("web", good_syn, 1_100, completes=True, since_s=START_S),
        Stream("web", good_ack, 1_100, is_open=True, since_s=START_S),
        Stream("web", good_data, 6_600, is_invited=True, since_s=START_S),
        Stream("game", random_datagram, 1_000_000, protocol="udp", since_s=START_S),
    )
    edge.run(START_S + 60)
    assert {attack.application for attack in edge.attacks.values()} == {"game"}
    assert all(hold.application == "game" for _, plan in edge.plans for hold in plan.holds)


def test_a_crowd_in_sessions_that_the_kernel_has_no_room_for_is_not_an_attack() -> None:
    """It takes them for strangers; flows that are answered say otherwise."""
    crowd = [
        Stream("voice", good_datagram, 200, completes=True, protocol="udp", since_s=START_S),
        Stream("voice", good_datagram, 40_000, True, is_hidden=True, protocol="udp", since_s=START_S),
    ]
    edge = edge_of(*crowd)
    edge.run(START_S + 20)
    assert edge.plan.is_watching and edge.attacks == {}
    assert all(not plan.holds and not plan.rules for _, plan in edge.plans)


@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "unanswered"])
@pytest.mark.parametrize("is_fast", [True, False], ids=["fast path", "engine"])
def test_strangers_share_a_budget_and_sessions_lose_nothing_whoever_carries_them(
    is_fast: bool, is_answered: bool
) -> None:
    """An origin that answers everybody answers a flood as well."""
    flood = Stream("voice", random_datagram, 300_000, completes=is_answered, protocol="udp", since_s=START_S)
    edge = edge_of(Stream("voice", good_datagram, 1_000, is_invited=True, protocol="udp"), flood)
    edge.is_fast = is_fast
    edge.run(START_S + 5)
    assert [attack.kind for attack in edge.attacks.values()] == ["udp"]
    assert first(edge, "rates") <= 2.0
    [hold] = [hold for hold in edge.plan.holds if hold.application == "voice"]
    assert [rate.ipv4 for rate in hold.rates] == [32, 24, 0]


def test_strangers_share_less_for_as_long_as_it_is_held_once_the_edge_has_said_that_it_cannot_take_them_all() -> None:
    edge = edge_of(Stream("game", random_datagram, 1_000_000, since_s=START_S, protocol="udp"))
    edge.run(START_S + 3)
    [hold] = edge.plan.holds
    assert hold.rates[-1].per_s == 10_000
    for pressed in (0, 2_000, 0, 0):
        edge.signals["game"]["pressed"] += pressed
        edge.pass_by(250)
        edge.step()
    [hold] = edge.plan.holds
    assert [rate.per_s for rate in hold.rates] == [100, 400, 2_000]


def test_between_floods_strangers_share_what_there_is_as_they_like_and_fairly_as_soon_as_the_next_one_comes() -> None:
    """Many share one address. What there is for all stays as it is: a pulse meets it from its first packet on."""
    pulse = Stream("voice", random_datagram, 300_000, protocol="udp", since_s=START_S, until_s=START_S + 5)
    again = Stream("voice", random_datagram, 300_000, protocol="udp", since_s=START_S + 20)
    edge = edge_of(Stream("voice", good_datagram, 1_000, is_invited=True, protocol="udp"), pulse, again)

    def shares() -> list[tuple[int, int]]:
        [hold] = edge.plan.holds
        return [(rate.ipv4, rate.per_s) for rate in hold.rates]

    edge.run(START_S + 5)
    fair = shares()
    assert [bits for bits, _ in fair] == [32, 24, 0]
    edge.run(START_S + 15)
    assert shares() == fair[-1:]
    edge.run(START_S + 21)
    assert shares() == fair


def test_where_nobody_stays_a_flood_that_nobody_answers_is_limited_too() -> None:
    edge = edge_of(Stream("dns", random_datagram, 300_000, protocol="udp", since_s=START_S))
    edge.run(START_S + 5)
    assert first(edge, "rates") <= 2.0


def test_what_no_stack_sends_is_told_and_needs_nothing() -> None:
    edge = edge_of(Stream("web", lambda numbers: tcp("192.0.2.1", EDGE, 0x29), 50_000, since_s=START_S))
    edge.run(START_S + 5)
    assert [attack.kind for attack in edge.attacks.values()] == ["malformed"]
    assert all(not plan.holds for _, plan in edge.plans)


def test_an_attacker_who_looks_like_a_good_client_gets_no_rule() -> None:
    edge = edge_of(Stream("web", good_syn, 50_000, since_s=LEARNT_S), is_guarded=True)
    edge.run(LEARNT_S + 30)
    assert drop_rules(edge) == []
    assert any(hold.cookies for hold in edge.plan.holds)
    assert edge.lost_good == 0


def test_a_carpet_over_one_application_of_many_addresses() -> None:
    carpet = [
        Stream("game", to_address(random_datagram, f"198.51.100.{at}"), 2_000, since_s=START_S, protocol="udp")
        for at in range(256)
    ]
    edge = edge_of(*carpet)
    edge.run(START_S + 6)
    [attack] = edge.attacks.values()
    assert attack.kind == "carpet" and attack.detected_after_ms <= 2_000
    assert first(edge, "rates") <= 3.0


def test_a_carpet_over_many_applications_that_have_little_each() -> None:
    carpet = [
        Stream(f"a{at:03}", to_address(random_datagram, f"198.51.100.{at}"), 2_000, since_s=START_S, protocol="udp")
        for at in range(256)
    ]
    edge = edge_of(*carpet)
    edge.run(START_S + 3)
    held = {hold.application for hold in edge.plan.holds if hold.rates}
    assert len(held) == 256
    [attack] = edge.attacks.values()
    assert (attack.kind, attack.application) == ("carpet", "*")
    assert attack.detected_after_ms <= 2_000 and "198.51.100.0/24" in attack.vector


def test_the_second_pulse_finds_the_door_shut() -> None:
    pulses = [
        Stream("web", spoofed_syn, 200_000, since_s=START_S + 30 * at, until_s=START_S + 30 * at + 5) for at in range(6)
    ]
    edge = edge_of(*pulses)
    edge.run(START_S + 6)
    reached = edge.reached
    edge.run(START_S + 180)
    assert edge.reached == reached
    assert len(edge.attacks) == 1
    edge.run(START_S + 300)
    assert edge.plan == Plan() and [attack.ended_unix_ms for attack in edge.attacks.values()] != [None]


def test_what_comes_again_is_held_longer() -> None:
    edge = edge_of(
        Stream("web", spoofed_syn, 200_000, since_s=START_S, until_s=START_S + 5),
        Stream("web", spoofed_syn, 200_000, since_s=START_S + 200, until_s=START_S + 205),
    )
    edge.run(START_S + 500)
    spells = [(at_s - START_S, bool(plan.holds)) for at_s, plan in edge.plans]
    ends = [at_s for (at_s, now), (_, before) in zip(spells[1:], spells, strict=False) if before and not now]
    assert len(ends) == 2 and 60 <= ends[0] - 5 <= 62 and 120 <= ends[1] - 205 <= 122


def test_several_attacks_at_once_are_answered_each_in_its_way() -> None:
    edge = edge_of(
        Stream("web", spoofed_syn, 300_000, since_s=START_S),
        Stream("web", stray_ack, 200_000, since_s=START_S),
        Stream("game", random_datagram, 300_000, since_s=START_S, protocol="udp"),
    )
    edge.run(START_S + 5)
    assert max(first(edge, "cookies"), first(edge, "state"), first(edge, "rates")) <= 2.0
    assert {attack.kind for attack in edge.attacks.values()} == {"spoofed_syn", "ack", "udp"}


def test_the_switch_ends_everything_at_once() -> None:
    edge = edge_of(Stream("web", spoofed_syn, 500_000, since_s=START_S))
    edge.run(START_S + 5)
    assert edge.plan.holds
    edge.is_enabled = False
    decided = edge.step()
    assert decided.plan == Plan()
    assert all(attack.ended_unix_ms is not None for attack in decided.attacks) and decided.attacks
    edge.run(START_S + 20)
    assert edge.plan == Plan()


def test_an_application_that_is_off_is_left_alone_and_others_are_not() -> None:
    edge = edge_of(
        Stream("web", spoofed_syn, 500_000, since_s=START_S),
        Stream("game", random_datagram, 500_000, since_s=START_S, protocol="udp"),
        sensitivities={"web": "off"},
    )
    edge.run(START_S + 5)
    assert {hold.application for hold in edge.plan.holds} == {"game"}


def test_a_datagram_tool_gets_a_rule_by_its_payload() -> None:
    edge = Edge(
        is_guarded=True,
        streams=[*talkers(per_s=50), Stream("game", tool_datagram, 500_000, since_s=LEARNT_S, protocol="udp")],
    )
    edge.run(LEARNT_S + 10)
    [attack] = edge.attacks.values()
    assert attack.rules and attack.rules[0].match.payload is not None
    assert attack.rules[0].match.payload.bytes.startswith(b"\xff\xff\xff\xffgetstatus".hex()[:28])
    assert edge.lost_good == 0


def test_there_are_never_more_rules_than_fit() -> None:
    edge = edge_of(Stream("web", tool_syn, 100_000, since_s=START_S), is_guarded=True)
    edge.run(START_S + 30)
    assert all(len(plan.rules) <= MOST_RULES for _, plan in edge.plans)


def test_the_same_looks_make_the_same_plans() -> None:
    def run() -> list[tuple[float, Plan]]:
        edge = Edge(
            is_guarded=True,
            streams=[
                *people(),
                *talkers(),
                Stream("web", spoofed_syn, 50_000, since_s=60),
                Stream("web", stray_ack, 50_000, since_s=61),
                Stream("game", tool_datagram, 50_000, since_s=62, protocol="udp"),
            ],
        )
        edge.run(70)
        return edge.plans

    assert run() == run() != []


def test_a_machine_that_cannot_tells_of_attacks_and_is_not_asked_at_every_look() -> None:
    edge = edge_of(Stream("web", spoofed_syn, 200_000, since_s=START_S))
    edge.missing = "no CAP_BPF"
    edge.run(START_S + 30)
    assert [attack.kind for attack in edge.attacks.values()] == ["spoofed_syn"]
    assert edge.plan == Plan() and len(edge.plans) <= 2
    assert edge.mitigator.state().missing == "no CAP_BPF"


def test_where_cookies_cannot_be_had_syns_are_limited() -> None:
    edge = edge_of(Stream("web", spoofed_syn, 200_000, since_s=START_S))
    edge.run(START_S + 1)
    assert first(edge, "cookies") <= 1.0
    edge.mitigator.note_refused({"web": "cookies: only the kernel serves it"})
    edge.run(START_S + 2)
    [hold] = edge.plan.holds
    assert [(rate.of, rate.ipv4) for rate in hold.rates] == [("syns", 32), ("syns", 24), ("syns", 0)]


def test_connections_that_are_completed_are_never_limited_here_however_pressed_the_machine_is() -> None:
    def of_few(numbers: random.Random) -> bytes:
        return tcp(f"203.0.113.{numbers.randint(1, 64)}", EDGE, 2, sport=numbers.randint(1_024, 65_535), hops=50)

    edge = edge_of(Stream("web", of_few, 12_800, completes=True, since_s=START_S))
    edge.run(START_S + 5)
    assert edge.attacks == {}, "a crowd, as far as one can tell"
    edge.cpu_busy = 1.0
    edge.run(START_S + 10)
    [attack] = edge.attacks.values()
    assert attack.kind == "connections"
    assert edge.plan.holds == [Hold("web", cookies=True)], "who floods is found by what its address does, in the engine"


def test_what_an_earlier_process_held_ends_when_it_is_needed_no_more() -> None:
    edge = Edge(streams=[*people()])
    edge.plan = Plan(is_watching=True, sample_every=64, holds=[Hold("web", cookies=True)])
    edge.mitigator.adopt(edge.plan, edge.ms, edge.unix_ms)
    edge.run(30)
    assert edge.plan.holds == [Hold("web", cookies=True)]
    edge.run(70)
    assert edge.plan == Plan()
