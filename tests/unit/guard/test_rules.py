"""A rule's life: a trial, a time in force, an end. And what ends it early."""

from guard_frames import udp

from causeway.guard.packet import read
from causeway.guard.rules import HOLD_MS, MOST_HOLD_MS, MOST_RULES, TRIAL_MS, HoldTimes, Rules
from causeway.model.mitigation import Match, RuleCount

MATCH = Match(protocol=17, source_ports=(389, 389))


def made(rules: Rules, match: Match = MATCH, now_ms: int = 0) -> str:
    assert rules.try_out("game", match, "ab" * 16, 3_000, now_ms, now_ms)
    return list(rules)[-1].rule.id


def actions(rules: Rules) -> list[str]:
    return [rule.action for rule in rules.planned()]


def test_a_rule_drops_after_a_second_in_which_only_the_attack_fitted() -> None:
    rules = Rules()
    rule = made(rules)
    rules.count([RuleCount(rule, 10, 0)], 250)
    assert actions(rules) == ["watch"]
    rules.count([RuleCount(rule, 9_000, 0)], 250 + TRIAL_MS)
    assert actions(rules) == ["drop"]


def test_a_trial_that_meets_an_open_flow_is_refused_and_not_begun_again() -> None:
    rules = Rules()
    rule = made(rules)
    rules.count([RuleCount(rule, 9_000, 1)], 500)
    assert rules.planned() == []
    assert not rules.try_out("game", MATCH, "ab" * 16, 3_000, 1_000, 1_000)
    assert rules.try_out("other", MATCH, "ab" * 16, 3_000, 1_000, 1_000)


def test_a_rule_in_force_that_meets_a_good_packet_is_given_up() -> None:
    rules = Rules()
    rule = made(rules)
    for at, packets in ((250, 10), (1_500, 20)):
        rules.count([RuleCount(rule, packets, 0)], at)
    packet = read(udp("192.0.2.1", "198.51.100.10", sport=389))
    assert packet is not None and actions(rules) == ["drop"]
    rules.see_good("other", packet, 2_000)
    assert actions(rules) == ["drop"]
    rules.see_good("game", packet, 2_000)
    assert actions(rules) == []


def test_a_trial_to_which_nothing_comes_ends() -> None:
    rules = Rules()
    rule = made(rules)
    rules.count([RuleCount(rule, 0, 0)], 4_000)
    assert actions(rules) == ["watch"]
    rules.count([RuleCount(rule, 0, 0)], 5_000)
    assert actions(rules) == []


def test_a_rule_ends_a_minute_after_its_last_match_and_later_the_next_time() -> None:
    rules, now_ms, spells = Rules(), 0, []
    for _ in range(8):
        rule = made(rules, now_ms=now_ms)
        for step, packets in ((250, 10), (1_500, 20), (2_000, 30)):
            rules.count([RuleCount(rule, packets, 0)], now_ms + step)
        last_ms = now_ms = now_ms + 2_000
        while rules.planned():
            now_ms += 1_000
            rules.count([RuleCount(rule, 30, 0)], now_ms)
        spells.append(now_ms - last_ms)
    assert spells == [min(HOLD_MS * 2**at, MOST_HOLD_MS) for at in range(8)]


def test_the_kernel_ends_a_rule_later_than_we_do_and_is_not_told_anew_all_the_time() -> None:
    rules = Rules()
    rule = made(rules)
    told = set()
    for second in range(60):
        rules.count([RuleCount(rule, 1 + second, 0)], second * 1_000)
        [planned] = rules.planned()
        assert planned.expires_ms is not None and planned.expires_ms >= second * 1_000 + HOLD_MS
        told.add(planned)
    assert len({rule.expires_ms for rule in told}) <= 3


def test_there_are_at_most_64() -> None:
    rules = Rules()
    begun = [rules.try_out("game", Match(hops=(at, at)), "ab" * 16, 3_000, 0, 0) for at in range(200)]
    assert begun == [True] * MOST_RULES + [False] * (200 - MOST_RULES)
    assert len({rule.id for rule in rules.planned()}) == MOST_RULES


def test_what_another_process_put_in_force_is_taken_up() -> None:
    rules, heir = Rules(), Rules()
    rule = made(rules)
    for at, packets in ((250, 10), (1_500, 20)):
        rules.count([RuleCount(rule, packets, 0)], at)
    heir.adopt(rules.planned(), 2_000, 2_000)
    heir.count([RuleCount(rule, 25, 0)], 2_250)
    assert [living.rule.id for living in heir] == [rule] and next(iter(heir)).attack == "ab" * 16
    assert made(heir, Match(hops=(1, 1))) != rule


def test_what_is_remembered_is_bounded() -> None:
    times = HoldTimes()
    for at in range(5_000):
        times.begin(str(at).encode(), at)
    assert len(times._last) <= 1_024
