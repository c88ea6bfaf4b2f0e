"""Which server, token, zone, application and file the operator means."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from causeway.cli.documents import parse_documents, read_documents
from causeway.cli.lookup import choose_application, choose_zone
from causeway.cli.problems import Missing, Misuse
from causeway.cli.session import find_token, is_usable
from causeway.client import is_loopback

TOKEN = "a" * 40
NET: Any = {"id": "1" * 32, "name": "example.net"}
ORG: Any = {"id": "2" * 32, "name": "example.org"}
DEEP: Any = {"id": "3" * 32, "name": "games.example.net"}

ZONES = [  # zones           wanted         hostname                expected
    ([NET], None, None, NET),
    ([NET, ORG], "example.org", None, ORG),
    ([NET, ORG], "EXAMPLE.org.", None, ORG),
    ([NET, ORG], "2" * 32, None, ORG),
    ([NET, ORG], None, "ssh.example.org", ORG),
    ([NET, DEEP], None, "mc.games.example.net", DEEP),
    ([DEEP, NET], None, "mc.games.example.net", DEEP),
    ([NET, ORG], "example.net", "ssh.example.org", NET),
    ([NET], None, "ssh.elsewhere.org", NET),  # the server refuses it and says why
]


@pytest.mark.parametrize(("zones", "wanted", "hostname", "expected"), ZONES)
def test_the_zone_is_the_one_meant(zones: list[Any], wanted: str | None, hostname: str | None, expected: Any) -> None:
    assert choose_zone(zones, wanted, hostname) == expected


@pytest.mark.parametrize(
    ("zones", "wanted", "hostname", "error", "said"),
    [
        ([], None, None, Missing, "zones create"),
        ([NET, ORG], None, None, Misuse, "example.net, example.org"),
        ([NET, ORG], None, "ssh", Misuse, "--zone"),
        ([NET, ORG], None, "notexample.net", Misuse, "--zone"),
        ([NET], "nothing.net", None, Missing, "nothing.net"),
    ],
)
def test_an_unclear_zone_lists_what_there_is(
    zones: list[Any], wanted: str | None, hostname: str | None, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        choose_zone(zones, wanted, hostname)


def application(application_id: str, dns: str, protocol: str = "tcp/22", name: str | None = None) -> Any:
    extension = {"x_causeway": {"name": name}} if name else {}
    return (
        NET,
        {"id": application_id, "dns": {"type": "CNAME", "name": dns}, "protocol": protocol, **extension},
    )


SSH = application("abcd" + "0" * 28, "ssh.example.net")
DNS_UDP = application("abce" + "0" * 28, "dns.example.net", "udp/53")
DNS_TCP = application("abcf" + "0" * 28, "dns.example.net", "tcp/53")
LOBBY = application("ffff" + "0" * 28, "mc.example.net", "tcp/25565", "Lobby")
ALL = [SSH, DNS_UDP, DNS_TCP, LOBBY]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (SSH[1]["id"], SSH),
        (SSH[1]["id"].upper(), SSH),
        ("abcd", SSH),
        ("abcd0000", SSH),
        ("ssh.example.net", SSH),
        ("SSH.example.net.", SSH),
        ("ssh", SSH),
        ("Lobby", LOBBY),
    ],
)
def test_an_application_is_found_by_id_hostname_or_name(wanted: str, expected: Any) -> None:
    assert choose_application(ALL, wanted) == expected


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ("dns.example.net", Misuse, "udp/53"),
        ("abc", Missing, "apps list"),
        ("nothing", Missing, "nothing"),
        ("", Missing, "apps list"),
    ],
)
def test_an_unclear_application_says_how_to_be_clear(wanted: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        choose_application(ALL, wanted)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "causeway-data").mkdir()
    yield tmp_path


def test_a_named_file_wins_over_the_environment_and_that_over_the_folder(folder: Path) -> None:
    (folder / "named").write_text("named-" + TOKEN + "\n")
    (folder / "causeway-data/token").write_text("found-" + TOKEN)
    assert find_token(folder / "named", "env-" + TOKEN, is_local=True) == "named-" + TOKEN
    assert find_token(None, "env-" + TOKEN, is_local=True) == "env-" + TOKEN
    assert find_token(None, None, is_local=True) == "found-" + TOKEN


def test_a_token_that_lies_about_is_not_sent_to_another_machine(folder: Path) -> None:
    (folder / "causeway-data/token").write_text(TOKEN)
    with pytest.raises(Misuse, match="CAUSEWAY_API_TOKEN"):
        find_token(None, None, is_local=False)


@pytest.mark.parametrize("content", ["", "two words", "line\nline", "tök", "\x00" * 10])
def test_a_file_that_holds_no_token_is_refused_without_showing_it(folder: Path, content: str) -> None:
    (folder / "bad").write_text(content)
    with pytest.raises(Misuse, match="bad holds no API token") as caught:
        find_token(folder / "bad", None, is_local=True)
    assert not content or content not in str(caught.value)


def test_a_missing_token_file_is_named(folder: Path) -> None:
    with pytest.raises(Misuse, match="nowhere"):
        find_token(folder / "nowhere", None, is_local=True)


@pytest.mark.parametrize(
    ("url", "is_fine"),
    [
        ("http://127.0.0.1:8787", True),
        ("https://edge.example.net/causeway", True),
        ("http://[::1]:8787", True),
        ("127.0.0.1:8787", False),
        ("ftp://host", False),
        ("http://", False),
        ("http://[::1", False),
        ("http://host:port", False),
        ("http://user:secret@host", False),
    ],
)
def test_a_url_is_usable_or_not(url: str, is_fine: bool) -> None:
    assert is_usable(url) is is_fine


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("http://127.0.0.1.evil.net", False),
    ],
)
def test_only_this_machine_is_loopback(url: str, is_local: bool) -> None:
    assert is_loopback(url) is is_local


ONE = {"dns": "a.example.net", "protocol": "tcp/22"}


@pytest.mark.parametrize(
    ("content", "is_toml", "count"),
    [
        (b'{"dns": "a.example.net", "protocol": "tcp/22"}', False, 1),
        (b'[{"dns": "a.example.net", "protocol": "tcp/22"}]', False, 1),
        (b'dns = "a.example.net"\nprotocol = "tcp/22"', True, 1),
        (b'[[applications]]\ndns = "a.example.net"\nprotocol = "tcp/22"', True, 1),
    ],
)
def test_files_hold_one_application_or_a_list(content: bytes, is_toml: bool, count: int) -> None:
    assert parse_documents(content, is_toml=is_toml, source="x") == [ONE] * count


@pytest.mark.parametrize(
    ("content", "is_toml"),
    [
        (b"", False),
        (b"{", False),
        (b"[]", False),
        (b"{}", False),
        (b"3", False),
        (b"[3]", False),
        (b"[{}]", False),
        (b'{"drain": NaN}', False),
        (b"[" * 100_000, False),
        (b"\xff", False),
        (b"a = ", True),
        (b"", True),
        (b"a = 2026-01-01", True),
        (b"a = inf", True),
        (b"[[applications]]", True),
    ],
)
def test_what_is_no_application_file_is_refused_by_name(content: bytes, is_toml: bool) -> None:
    with pytest.raises(Misuse, match="-f x"):
        parse_documents(content, is_toml=is_toml, source="x")


def test_a_missing_file_and_a_huge_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="No such file"):
        read_documents(tmp_path / "nowhere.json")
    (tmp_path / "huge.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(Misuse, match="larger than"):
        read_documents(tmp_path / "huge.json")
