"""Rules in words: every part of a match is told, and how sure a rule is without a word of statistics missing."""

from typing import Any

import msgspec
import pytest

from causeway.model.mitigation import Match, Payload, Rule
from causeway.model.wording import bound_text, match_text, rule_text

MATCHES: list[tuple[dict[str, Any], str]] = [
    ({}, "packets"),
    ({"protocol": 17, "source_ports": (53, 53), "length": (512, 1500)}, "UDP, source port 53, 512-1500 bytes"),
    ({"protocol": 6, "flags": (0x12, 0x02)}, "TCP, flags SYN and not ACK"),
    ({"protocol": 6, "flags": (0x04, 0x04)}, "TCP, flags RST"),
    ({"protocol": 6, "flags": (0xFF, 0x00)}, "TCP, flags not FIN SYN RST PSH ACK URG ECE CWR"),
    ({"protocol": 6, "mss": (0, 0), "window": (1024, 1024)}, "TCP, window 1024, no MSS"),
    ({"protocol": 6, "mss": (1460, 1460), "fingerprint": 255}, "TCP, MSS 1460, TCP options 0xff"),
    ({"protocol": 132}, "packets of IP protocol 132"),
    ({"is_ipv6": True, "protocol": 58}, "IPv6 ICMPv6"),
    ({"is_ipv6": False, "source": "198.51.100.0/24"}, "IPv4 packets, from 198.51.100.0/24"),
    ({"destination": "192.0.2.1/32", "destination_ports": (1, 9)}, "packets, to 192.0.2.1/32, destination port 1-9"),
    ({"hops": (60, 64), "has_zero_id": True}, "packets, time to live 60-64, IP identification 0"),
    ({"is_fragment": True, "protocol": 17}, "UDP, fragments"),
    ({"payload": Payload(4, "ffee", "ffff")}, "packets, payload ffee at byte 4"),
    ({"payload": Payload(0, "ff00", "ff0f")}, "packets, payload ff00 under ff0f at byte 0"),
]


@pytest.mark.parametrize(("match", "words"), MATCHES)
def test_a_match_is_told_in_words(match: dict[str, Any], words: str) -> None:
    assert match_text(Match(**match)) == words


def test_no_part_of_a_match_is_left_out() -> None:
    told = {name for match, _ in MATCHES for name in match}
    assert told == set(Match.__struct_fields__)
    for name in told:
        [match, *_] = [match for match, _ in MATCHES if name in match]
        without = Match(**{key: value for key, value in match.items() if key != name})
        assert match_text(Match(**match)) != match_text(without), name


def test_a_rule_says_what_it_does() -> None:
    rule = Rule("r", "a", "drop", Match(protocol=17))
    assert rule_text(rule) == "drops UDP"
    assert rule_text(msgspec.structs.replace(rule, action="pass")) == "lets pass UDP"
    assert rule_text(msgspec.structs.replace(rule, action="watch")) == "only counts UDP"


BOUNDS = [  # share, good samples
    (0.0001, 30_000, "at most 0.01 % of good packets (95 % confidence, 0 of 30,000)"),
    (3 / 7000, 7_000, "at most 0.043 % of good packets (95 % confidence, 0 of 7,000)"),
    (1e-6, 3_000_000, "at most 0.0001 % of good packets (95 % confidence, 0 of 3,000,000)"),
    (0.03, 100, "at most 3 % of good packets (95 % confidence, 0 of 100)"),
    (None, 0, "not proven on good packets"),
    (None, 12, "not proven yet, on 12 good packets"),
]


@pytest.mark.parametrize(("share", "samples", "words"), BOUNDS)
def test_a_bound_is_told_with_what_it_rests_on(share: float | None, samples: int, words: str) -> None:
    assert bound_text(share, samples) == words
