"""Documents in and out: whatever comes in, the answer is an application or a problem with a pointer."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.model.application import Application, Extension
from causeway.model.document.application import WRITABLE, parse_application
from causeway.model.document.extension import FIELDS
from causeway.model.document.showing import merge, show_application
from causeway.model.hostname import hostname
from causeway.model.problem import Code, Problem
from causeway.store.rows import from_row, to_row

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PLAIN = {
    "protocol": "tcp/22",
    "dns": {"type": "CNAME", "name": "ssh.example.net"},
    "origin_direct": ["tcp://192.0.2.1:22"],
}


def read(body: object) -> Application:
    return parse_application(body, application_id="a" * 32, zone_id="b" * 32, created_on=WHEN, now=WHEN)


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
NEARLY = {
    "protocol": st.sampled_from(["tcp/22", "udp/53", "tcp/10-20", "TCP/1", "tcp/0", "udp/70000"]),
    "dns": st.fixed_dictionaries(
        {"name": st.sampled_from(["a.example.net", "A.EXAMPLE.NET.", "*", "-a.b"])},
        optional={"type": st.sampled_from(["CNAME", "ADDRESS", "cname", "A"])},
    ),
    "origin_direct": st.lists(
        st.sampled_from(["tcp://10.0.0.1:22", "udp://[2001:db8::1]:53", "tcp://10.0.0.1:10-20", "tcp://x:1"]),
        max_size=3,
    ),
    "origin_dns": st.fixed_dictionaries({"name": st.just("o.example.org")}, optional={"ttl": st.integers(0, 90_000)}),
    "origin_port": st.sampled_from([22, "22", "10-20", 0, 22.0, "x"]),
    "proxy_protocol": st.sampled_from(["off", "v1", "v2", "simple", "V2"]),
    "edge_ips": st.sampled_from(
        [{"type": "dynamic"}, {"connectivity": "ipv6"}, {"type": "static", "ips": ["127.0.0.1", "::1"]}, {"ips": []}]
    ),
    "ip_firewall": st.booleans(),
    "x_causeway": st.fixed_dictionaries(
        {},
        optional={
            "name": st.text(min_size=1, max_size=5),
            "proxy_protocol_from": st.lists(st.sampled_from(["10.0.0.0/8", "::/0", "10.0.0.1/8"]), max_size=2),
            "idle_timeout_s": st.floats(-1, 700_000),
            "udp_header": st.sampled_from(["first", "every"]),
            "on_delete": st.sampled_from(["drain", "close"]),
            "carrier": st.sampled_from(["auto", "engine", "kernel"]),
            "transparent": st.booleans(),
            "balance": st.sampled_from(["order", "hash"]),
            "mitigation": st.sampled_from(["off", "low", "medium", "HIGH", "auto"]),
            "logins": st.booleans(),
            "paths": st.lists(st.lists(st.sampled_from(("ams-1", "fra-1", "local", "A")), max_size=2), max_size=2),
            "weights": st.lists(st.integers(-1, 1001), max_size=2),
            "minecraft": st.fixed_dictionaries(
                {},
                optional={
                    "status_cache_s": st.sampled_from([0, 1, 2.5, -1]),
                    "joins_per_s": st.sampled_from([0, 20, 1.5]),
                    "challenge": st.booleans(),
                },
            ),
        },
    ),
}


@given(ANYTHING)
def test_any_value_is_read_or_refused(body: object) -> None:
    with pytest.raises(Problem):
        read(body)


@given(st.sampled_from(WRITABLE), ANYTHING)
def test_any_value_in_any_field_is_read_or_refused_with_its_pointer(name: str, value: object) -> None:
    try:
        read({**PLAIN, name: value})
    except Problem as problem:
        assert problem.pointer
        assert problem.pointer.startswith("/")
        assert problem.status == 400


@given(st.sampled_from(FIELDS), ANYTHING)
def test_any_value_in_any_extension_is_read_or_refused(name: str, value: object) -> None:
    try:
        read({**PLAIN, "x_causeway": {name: value}})
    except Problem as problem:
        assert (problem.pointer or "").startswith(f"/x_causeway/{name}")


@settings(max_examples=500)
@given(st.fixed_dictionaries({}, optional=NEARLY))
def test_what_is_shown_reads_as_the_same_and_so_does_what_is_stored(body: dict[str, Any]) -> None:
    try:
        application = read(PLAIN | body)
    except Problem:
        return
    assert read(show_application(application)) == application
    row = type("Row", (), to_row(application))
    assert from_row(row) == application
    assert read(merge(application, {})) == application


def test_times_are_written_with_microseconds_and_z() -> None:
    assert show_application(read(PLAIN))["created_on"] == "2026-01-02T03:04:05.678901Z"


def test_the_extension_shows_what_was_stated_and_nothing_else() -> None:
    assert "x_causeway" not in show_application(read(PLAIN))
    stated = read({**PLAIN, "x_causeway": {"idle_timeout_s": 3600, "name": None}})
    assert show_application(stated)["x_causeway"] == {"idle_timeout_s": 3600}
    assert stated.extension.idle_timeout_s == Extension().idle_timeout_s


MERGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # patch                                                        what is different
    ({"proxy_protocol": "v1"}, {"proxy_protocol": "v1"}),
    ({"proxy_protocol": None}, {"proxy_protocol": "off"}),
    ({"origin_dns": {"name": "o.example.org"}, "origin_port": 1}, {"origin_direct": None, "origin_port": 1}),
    ({"x_causeway": {"name": "new"}}, {"x_causeway": {"name": "new", "drain_s": 7}}),
    ({"x_causeway": {"drain_s": None}}, {"x_causeway": {"name": "old"}}),
    ({"x_causeway": None}, {"x_causeway": None}),
    ({}, {}),
]


@pytest.mark.parametrize(("patch", "different"), MERGES)
def test_a_patch_changes_what_it_names(patch: dict[str, Any], different: dict[str, Any]) -> None:
    before = read({**PLAIN, "proxy_protocol": "v2", "x_causeway": {"name": "old", "drain_s": 7}})
    after = show_application(read(merge(before, patch)))
    expected = {name: value for name, value in (show_application(before) | different).items() if value is not None}
    assert {name: after.get(name) for name in expected} == expected
    assert {name for name, value in different.items() if value is None}.isdisjoint(after)


NAMES = [
    ("a.example.net", "a.example.net"),
    ("A.Example.NET.", "a.example.net"),
    ("_dmarc.example.net", "_dmarc.example.net"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("1.example.net", "1.example.net"),
    ("x" * 63 + ".net", "x" * 63 + ".net"),
    ("bücher.example", None),
    ("\u212aelvin.example", None),
    ("x" * 64 + ".net", None),
    (".".join(["x" * 49] * 5), ".".join(["x" * 49] * 5)),
    (".".join(["x" * 50] * 5), None),
    ("*.example.net", None),
    ("-a.example.net", None),
    ("a-.example.net", None),
    ("a..net", None),
    (".", None),
    ("", None),
    ("192.0.2.1", None),
    ("example.net/", None),
    ("a b.net", None),
    ("a.net\n", None),
    ("a.net..", None),
]


@pytest.mark.parametrize(("text", "name"), NAMES)
def test_hostnames(text: str, name: str | None) -> None:
    assert hostname(text) == name


def test_every_code_that_is_documented_has_its_status() -> None:
    assert {code: Problem(code, "").status for code in (Code.INTERNAL, Code.EDGE_IP_FAMILY, Code.PORT)} == {
        Code.INTERNAL: 503,
        Code.EDGE_IP_FAMILY: 403,
        Code.PORT: 400,
    }
