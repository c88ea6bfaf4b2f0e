"""What an operator may say of anycast, and what is refused with a sentence."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from causeway.model.anycast import GRACEFUL_SHUTDOWN, LAST_RESORT_MED, Policy, Terms
from causeway.settings import AnycastSettings, read_settings

HERE = ("--edge-ip", "198.18.100.7", "--anycast", "198.18.100.7/32")


def test_an_address_is_all_that_it_takes() -> None:
    told = read_settings(HERE).anycast
    policy = Policy((ip_network("198.18.100.7/32"),), Terms(), Terms((GRACEFUL_SHUTDOWN,), LAST_RESORT_MED), 3)
    assert told == AnycastSettings(policy, Path("/run/bird/bird.ctl"), Path("/etc/bird/causeway.conf"))
    assert read_settings(()).anycast is None


def test_everything_else_may_be_said() -> None:
    told = read_settings(
        (*HERE, "--anycast-community", "64512:1", "--anycast-community", "4200000000:1:2", "--anycast-med", "50",
         "--anycast-drain-community", "64512:666", "--anycast-leave-s", "7", "--anycast-pass-to", "10.0.0.2",
         "--bird-socket", "/run/b", "--bird-include", "/etc/c")
    ).anycast  # fmt: skip
    assert told == AnycastSettings(
        Policy(
            (ip_network("198.18.100.7/32"),),
            Terms(((64512, 1), (4_200_000_000, 1, 2)), 50),
            Terms(((64512, 666),), LAST_RESORT_MED),
            7,
            (ip_address("10.0.0.2"),),
        ),
        Path("/run/b"),
        Path("/etc/c"),
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--anycast", "198.18.100.7/32"), "no --edge-ip is in it"),
        ((*HERE, "--anycast", "2001:db8::/48"), "no --edge-ip is in it"),
        (("--anycast", "198.18.100.7/24"), "has host bits set"),
        (("--anycast", "0.0.0.0/0"), "nobody is reached there"),
        ((*HERE, "--anycast-community", "1:65536"), "0 to 65535"),
        ((*HERE, "--anycast-med", str(LAST_RESORT_MED)), "--anycast-med"),
        ((*HERE, "--anycast-leave-s", "31"), "0 to 30 seconds"),
        ((*HERE, "--anycast-pass-to", "198.18.100.7"), "on a link between the two"),
        ((*HERE, "--anycast-pass-to", "2001:db8::1"), "no --anycast PREFIX is of IPv6"),
        ((*HERE, "--anycast-pass-to", "10.0.0.1", "--anycast-pass-to", "10.0.0.2"), "give one IPv4 address"),
        *(
            ((flag, value), f"{flag} is for --anycast PREFIX")
            for flag, value in {
                "--anycast-med": "0", "--anycast-community": "1:1", "--anycast-leave-s": "0", "--bird-socket": "/x",
                "--anycast-drain-community": "1:1", "--anycast-pass-to": "10.0.0.2", "--bird-include": "/x",
            }.items()
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(flags: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_settings(flags)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
