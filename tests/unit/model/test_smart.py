"""Whom a zone with smart routing takes in, and what is said of those that it leaves out."""

from datetime import UTC, datetime
from typing import Any

import pytest

from causeway.model.application import Application
from causeway.model.document.application import parse_application
from causeway.model.document.showing import merge, show_application
from causeway.model.smart import is_steered, why_direct

ZONE = "b" * 32
PLAIN: dict[str, Any] = {
    "protocol": "tcp/22",
    "dns": {"type": "CNAME", "name": "ssh.example.net"},
    "origin_direct": ["tcp://192.0.2.1:22"],
}


def read(body: object) -> Application:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    return parse_application(body, application_id="a" * 32, zone_id=ZONE, created_on=when, now=when)


LEFT_OUT = [  # what it says                                     why
    ({"protocol": "udp/53", "origin_direct": ["udp://192.0.2.1:53"]}, "tcp alone"),
    ({"x_causeway": {"paths": [["ams-1"]]}}, "x_causeway.paths"),
    ({"x_causeway": {"minecraft": {"joins_per_s": 1}}}, "minecraft"),
    ({"x_causeway": {"transparent": True}}, "transparent"),
    ({"x_causeway": {"carrier": "kernel"}}, "carrier"),
]


@pytest.mark.parametrize(("says", "why"), LEFT_OUT)
def test_what_smart_routing_cannot_be_for_stays_direct_in_a_smart_zone_and_says_why(says: Any, why: str) -> None:
    application = read({**PLAIN, **says})
    assert why in str(why_direct(application))
    assert not is_steered(application, {ZONE})
    shown: Any = show_application(application, {ZONE})
    assert shown["argo_smart_routing"] is False
    assert (shown["x_causeway"]["smart_routing"]["on"], shown["x_causeway"]["smart_routing"]["by"]) == (False, None)
    assert why in shown["x_causeway"]["smart_routing"]["reason"]


def test_others_are_on_by_their_zone_and_what_they_say_themselves_stays() -> None:
    plain, smart = read(PLAIN), read({**PLAIN, "argo_smart_routing": True})
    assert [is_steered(plain, zones) for zones in ((), {"c" * 32}, {ZONE})] == [False, False, True]
    assert is_steered(smart, ())
    shown: Any = show_application(plain, {ZONE})
    assert shown["argo_smart_routing"] is False
    assert shown["x_causeway"] == {"smart_routing": {"on": True, "by": "zone", "reason": None}}
    own: Any = show_application(smart, {ZONE})
    assert own["x_causeway"]["smart_routing"]["by"] == "application"
    assert "x_causeway" not in show_application(plain, {"c" * 32})


def test_what_was_shown_of_it_may_come_back_and_says_nothing() -> None:
    plain = read(PLAIN)
    assert read(show_application(plain, {ZONE})) == plain
    assert read(merge(plain, {"x_causeway": {"smart_routing": {"on": False}}})) == plain
