"""What is printed: nothing a terminal would act on, differences by field, problems with a next step."""

import json
from typing import Any

import pytest

from causeway.answers import Event
from causeway.cli.apps_view import origins_text, state_text
from causeway.cli.diff import Change, changes
from causeway.cli.escape import printable
from causeway.cli.problems import Missing, Misuse, explain, report
from causeway.cli.render import bytes_text, duration_text, print_fields, print_json, print_table
from causeway.cli.tail import line
from causeway.client import Problem, Refused, Unreachable

UNSAFE = [
    ("\x1b[31mred", "\\x1b[31mred"),
    ("a\nb\rc\td", "a\\x0ab\\x0dc\\x09d"),
    ("\x9b2J", "\\x9b2J"),
    ("\x00\x07\x7f", "\\x00\\x07\\x7f"),
    ("abc\u202ecba", "abc\\u202ecba"),
    ("a\u200bb\u2028c", "a\\u200bb\\u2028c"),
    ("\ud800", "\\ud800"),
    ("\U000e0001", "\\U000e0001"),
    ("münchen 東京 [bold]", "münchen 東京 [bold]"),
]


@pytest.mark.parametrize(("given", "shown"), UNSAFE)
def test_control_characters_are_escaped_and_letters_are_not(given: str, shown: str) -> None:
    assert printable(given) == shown


def test_tables_fields_and_json_show_hostile_names_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;owned\x07[red]x[/red]\u202e"
    print_table(("NAME",), [(hostile,)])
    print_fields([(hostile, hostile)])
    print_json({"name": hostile})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert not {"\x1b", "\x07"} & set(shown)
    assert "[red]x[/red]" in shown


def test_a_table_in_a_pipe_is_neither_wrapped_nor_padded(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [("x" * 300, "short"), ("y", "")])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 3
    assert rows[1] == "x" * 300 + "  short"
    assert rows[2] == "y"


def test_a_difference_names_each_field_once() -> None:
    before = {"id": "1", "modified_on": "a", "protocol": "tcp/22", "x_causeway": {"drain_s": 30, "name": "a"}}
    after = {
        "id": "1",
        "modified_on": "b",
        "protocol": "tcp/22",
        "x_causeway": {"drain_s": 5},
        "origin_direct": ["x"],
    }
    assert changes(before, after) == [
        Change("x_causeway.drain_s", "30", "5"),
        Change("origin_direct", None, "x"),
        Change("x_causeway.name", "a", None),
    ]
    assert [change.sign for change in changes(before, after)] == ["~", "+", "-"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (1.5, "1.5"),
        (5.0, "5"),
        ("", '""'),
        ([], "[]"),
        (["a", "b"], "a, b"),
    ],
)
def test_values_are_written_plainly(value: object, shown: str) -> None:
    assert changes(None, {"field": value}) == [Change("field", None, shown)]


def test_null_is_absent_and_equal_objects_differ_in_nothing() -> None:
    assert changes({"a": None, "b": 1}, {"b": 1}) == []


def test_a_problem_says_code_side_message_field_and_next_step() -> None:
    problem = Problem(16001, "a.example.org is not within zone example.net", "operator", "/dns/name")
    assert explain(problem) == [
        "error 16001 (operator): a.example.org is not within zone example.net",
        "  field  /dns/name",
        "  next   see the zones with `causeway zones list`",
    ]


EXITS = [
    (Misuse("no"), 2, "wrong_usage (operator): no"),
    (Missing("no"), 1, "not_found (operator): no"),
    (Refused(400, (Problem(11000, "both", "operator"), Problem(19002, "bad", "operator"))), 1, "19002"),
    (Unreachable("http://x", "refused"), 3, "server_unreachable"),
]


@pytest.mark.parametrize(("error", "code", "said"), EXITS)
def test_each_failure_has_its_exit_code(
    error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_a_mistake_of_our_own_is_not_explained_away() -> None:
    assert report(ZeroDivisionError()) is None


def test_the_servers_words_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    report(Refused(400, (Problem(1, "\x1b[2J", "operator", "/\x07", "\x1b"),)))
    assert not {"\x1b", "\x07"} & set(capsys.readouterr().err)


def test_sizes_and_times_are_readable() -> None:
    assert [bytes_text(n) for n in (0, 1023, 1024, 1536, 5 << 30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 GiB",
    ]
    assert [duration_text(s) for s in (0.25, 5, 61, 3700, 90000)] == [
        "250 ms",
        "5.0 s",
        "1 min 1 s",
        "1 h 1 min",
        "1 d 1 h",
    ]


def test_origins_show_in_the_order_they_are_tried() -> None:
    base: Any = {"id": "1", "protocol": "tcp/1", "dns": {"type": "CNAME", "name": "a"}}
    direct = base | {"origin_direct": ["tcp://[::1]:1", "tcp://10.0.0.5:1"]}
    assert origins_text(direct) == "[::1]:1, 10.0.0.5:1"
    assert origins_text(base | {"origin_dns": {"name": "o"}, "origin_port": 22}) == "o:22"


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "not serving"),
        (["running"], "running"),
        (["refused", "running"], "partly refused"),
        (["refused"], "refused"),
    ],
)
def test_the_state_of_an_application_is_that_of_its_listeners(states: list[str], said: str) -> None:
    assert state_text([{"state": state} for state in states]) == said  # type: ignore[typeddict-item]


EVENT: Event = {
    "seq": 1,
    "kind": "disconnect",
    "time_ms": 1_700_000_002_000,
    "application": "0123456789abcdef0123456789abcdef",
    "application_name": "mc.example.net",
    "flow": 7,
    "protocol": "tcp",
    "client": "192.0.2.1:5",
    "edge": "127.0.0.1:25565",
    "origin": "10.0.0.1:25565",
    "connect_time_ms": 1_700_000_000_000,
    "client_bytes": 10,
    "origin_bytes": 2048,
    "client_rtt_ns": 0,
    "origin_rtt_ns": 0,
    "status": 200,
    "cause": "",
    "message": "",
}


def test_a_closed_connection_is_one_line() -> None:
    assert line(EVENT).partition("  ")[2] == (
        "disconnect      mc.example.net  192.0.2.1:5 -> 127.0.0.1:25565/tcp -> 10.0.0.1:25565"
        "  in 10 B, out 2.0 KiB  2.0 s"
    )


def test_a_failure_shows_status_and_reason_and_nothing_moves_the_cursor() -> None:
    failed: Event = {
        **EVENT,
        "kind": "originError",
        "status": 521,
        "message": "10.0.0.1 refused\x1b[2J",
        "origin": None,
    }
    failed["application_name"] = "a\nb"
    shown = line(failed)
    assert shown.endswith("521 10.0.0.1 refused\\x1b[2J")
    assert "a\\x0ab" in shown
    assert json.dumps(failed).isascii()
