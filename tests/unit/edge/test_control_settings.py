"""`causeway control`: what it may be told, and what it may not because it has no edge or is not one of several."""

import pytest

from causeway.settings import ControlSettings, read_settings

ALONE = ("--no-edge", "--exchange", "nats://127.0.0.1:4222")
URL = "postgresql://causeway@127.0.0.1/causeway"
SEVERAL = (*ALONE, "--database", URL, "--node", "ams")


def test_control_serves_nobody_here_and_lets_nobody_reach_its_own_machine() -> None:
    read = read_settings((*SEVERAL, "--api", "127.0.0.1:9000"))
    assert (read.edge_addresses, read.allows_loopback, read.is_outpost) == ((), False, False)
    assert read.control == ControlSettings(URL, "ams", "http://127.0.0.1:9000")


def test_a_node_is_called_as_its_operator_says_and_reached_where_he_says() -> None:
    control = read_settings((*SEVERAL, "--api", "0.0.0.0:9000", "--api-url", "https://ams.example.net")).control
    assert control and control.api_url == "https://ams.example.net"


def test_a_machine_with_an_edge_has_its_control_to_itself() -> None:
    assert read_settings(()).control is None


REFUSED = [  # flags                                                          why
    (("--no-edge",), "--exchange URL is needed"),
    ((*ALONE, "--edge-ip", "127.0.0.1"), "--edge-ip is for a machine with an edge"),
    ((*ALONE, "--anycast", "198.18.100.7/32"), "--anycast"),
    ((*ALONE, "--node", "ams"), "--node is for --database"),
    ((*ALONE, "--api-url", "http://10.0.0.1"), "--api-url is for --database"),
    ((*SEVERAL, "--node", "A B"), "--node A B: 1 to 32"),
    ((*SEVERAL, "--api", "0.0.0.0:9000"), "--api-url URL is needed: others cannot reach 0.0.0.0:9000"),
    ((*ALONE, "--database", "postgresql://c:secret@127.0.0.1/c"), "a password in it"),
    (("--database", URL), "--database is for causeway control"),
    (("--node", "ams"), "--node is for causeway control"),
]


@pytest.mark.parametrize(("flags", "why"), REFUSED)
def test_what_does_not_belong_together_is_refused(
    flags: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read_settings(flags)
    said = capsys.readouterr().err
    assert (ended.value.code, why in said) == (2, True), said
    assert "secret" not in said
