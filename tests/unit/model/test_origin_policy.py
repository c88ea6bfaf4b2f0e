"""Which origin addresses are refused, in every spelling that somebody might try."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from causeway.model.application import DirectOrigin, Ports, Transport
from causeway.model.document.origins import parse_origins
from causeway.model.origin_policy import ALWAYS_DENIED, OriginPolicy, meanings, parse_network
from causeway.model.problem import Code, Problem


def words(table: str) -> list[str]:
    return table.split()


ALWAYS_REFUSED = words("""
169.254.169.254 169.254.0.1 169.254.255.255 169.254.169.253 169.254.170.2 169.254.0.23 [::ffff:169.254.169.254]
[::ffff:a9fe:a9fe] [0:0:0:0:0:ffff:a9fe:a9fe] [0000:0000:0000:0000:0000:FFFF:A9FE:A9FE] [::FFFF:169.254.169.254]
[::169.254.169.254] [::a9fe:a9fe] [64:ff9b::169.254.169.254] [64:ff9b::a9fe:a9fe] [64:FF9B:0:0:0:0:A9FE:A9FE]
[64:ff9b:1::a9fe:a9fe] [64:ff9b:1::169.254.0.1] [2002:a9fe:a9fe::] [2002:a9fe:a9fe::1] [2002:a9fe:a9fe:ffff::1]
100.100.100.200 [::ffff:100.100.100.200] [64:ff9b::6464:64c8] [::100.100.100.200] [2002:6464:64c8::1] 168.63.129.16
[::ffff:168.63.129.16] [64:ff9b::168.63.129.16] 192.0.0.192 [::ffff:c000:c0] [fd00:ec2::254] [fd00:0ec2::0254]
[fd00:ec2:0:0:0:0:0:254] [fd00:ec2::23] [fd20:ce::254] [fd00:c1::a9fe:a9fe] [fe80::1] [FE80::1] [fe80::a9fe:a9fe]
[febf::1] [fe80:0:0:0:0:0:0:1] 0.0.0.0 0.0.0.1 0.1.2.3 [::] [0:0:0:0:0:0:0:0] [::0] [::0.0.0.0] [::ffff:0.0.0.0]
[::ffff:0:0] [64:ff9b::] [64:ff9b::0.0.0.0] [2002::] 224.0.0.1 239.255.255.255 [::ffff:224.0.0.1] [64:ff9b::e000:1]
[2002:e000:1::] [ff02::1] [FF0E::1] [ff00::] 255.255.255.255 [::ffff:255.255.255.255] [64:ff9b::ffff:ffff]
[2002:ffff:ffff::]
""")
NO_ADDRESS = words("""
2852039166 0xa9fea9fe 0xa9.0xfe.0xa9.0xfe 0251.0376.0251.0376 025177524776 169.254.43518 169.16689662 0 127.1
0177.0.0.1 127.0.0.1. 169.254.169.254. ①⑥⑨.254.169.254 １６９.254.169.254 169。254。169。254 localhost [fe80::1%eth0]
[fe80::1%251] [::ffff:169.254.169.254%lo] [169.254.169.254] ::1 fe80::1 [::ffff:169.254.169] [] [::g]
169.254.169.254/32 user@169.254.169.254 metadata.google.internal instance-data
""")
LOOPBACK = words("""
127.0.0.1 127.255.255.254 [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::7f00:1]
[64:ff9b:1::127.0.0.1] [2002:7f00:1::]
""")
FINE = words("""
10.0.0.1 172.16.5.4 192.168.1.1 100.64.0.1 192.0.2.10 8.8.8.8 [2001:db8::1] [fd12:3456::1] [fc00::1]
[::ffff:10.0.0.1] [64:ff9b::10.0.0.1] [2606:4700::1111] 169.253.255.255 169.255.0.0 100.100.100.201 223.255.255.255
240.0.0.1
""")

assert len(ALWAYS_REFUSED) > 60
PERMISSIVE = OriginPolicy(allows_loopback=True)
STRICT = OriginPolicy(allows_loopback=False)


def origin(text: str) -> DirectOrigin:
    found = parse_origins({"origin_direct": [f"tcp://{text}:80"]}, Transport.TCP, Ports(443, 443))
    assert isinstance(found, tuple)
    return found[0]


@pytest.mark.parametrize("text", ALWAYS_REFUSED)
def test_link_local_metadata_nowhere_and_groups_are_always_refused(text: str) -> None:
    assert PERMISSIVE.refusal(origin(text))


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_what_only_some_parsers_take_for_an_address_is_none(text: str) -> None:
    with pytest.raises(Problem) as refused:
        origin(text)
    assert refused.value.code is Code.ORIGIN_ADDRESS


@pytest.mark.parametrize("text", LOOPBACK)
def test_loopback_is_a_matter_of_the_edge(text: str) -> None:
    assert "--allow-loopback-origins" in (STRICT.refusal(origin(text)) or "")
    assert PERMISSIVE.refusal(origin(text)) is None


@pytest.mark.parametrize("text", FINE)
def test_private_and_public_networks_are_fine(text: str) -> None:
    assert STRICT.refusal(origin(text)) is None


def test_the_operators_list_counts_in_every_spelling() -> None:
    policy = OriginPolicy(True, denied=(parse_network("203.0.113.0/24"), parse_network("2001:db8:bad::/48")))
    for text in (
        "203.0.113.9",
        "[::ffff:203.0.113.9]",
        "[64:ff9b::203.0.113.9]",
        "[2002:cb00:7109::1]",
        "[2001:db8:bad::1]",
    ):
        assert "--deny-origins" in (policy.refusal(origin(text)) or ""), text
    assert policy.refusal(origin("203.0.114.1")) is None


API = (ip_address("192.0.2.7"), 80)
OWN = [  # the API listens on            origin                      refused
    (API, "192.0.2.7", True),
    (API, "[::ffff:192.0.2.7]", True),
    (API, "[64:ff9b::192.0.2.7]", True),
    (API, "192.0.2.8", False),
    ((ip_address("192.0.2.7"), 81), "192.0.2.7", False),
    ((ip_address("0.0.0.0"), 80), "127.0.0.1", True),
    ((ip_address("0.0.0.0"), 80), "192.0.2.8", True),
    ((ip_address("0.0.0.0"), 80), "192.0.2.9", False),
    ((ip_address("::"), 80), "[::1]", True),
    ((ip_address("::"), 80), "192.0.2.8", True),
]


@pytest.mark.parametrize(("own", "text", "is_refused"), OWN)
def test_the_api_is_no_origin(own: tuple[IPv4Address | IPv6Address, int], text: str, is_refused: bool) -> None:
    policy = OriginPolicy(True, own_sockets=(own,), is_local=lambda address: str(address) == "192.0.2.8")
    assert bool(policy.refusal(origin(text))) is is_refused


def test_a_range_that_covers_the_api_is_refused() -> None:
    policy = OriginPolicy(True, own_sockets=(API,))
    assert policy.refusal(DirectOrigin(API[0], Ports(70, 90)))
    assert policy.refusal(DirectOrigin(API[0], Ports(81, 90))) is None


@given(st.ip_addresses(), st.booleans())
def test_the_engine_gets_the_same_answer_from_its_prefixes(
    address: IPv4Address | IPv6Address, allows_loopback: bool
) -> None:
    assert_same(address, allows_loopback)


@given(st.integers(0, 2**32 - 1), st.sampled_from([network for network, _ in ALWAYS_DENIED if network.version == 4]))
def test_the_engine_knows_every_spelling_of_what_is_denied(bits: int, network: object) -> None:
    denied = IPv4Address(int(network.network_address) | bits & int(network.hostmask))  # type: ignore[attr-defined]
    spellings = (
        denied,
        IPv6Address(int(IPv6Address("64:ff9b::")) | int(denied)),
        IPv6Address(int(IPv6Address("64:ff9b:1::")) | int(denied)),
        IPv6Address(int(IPv6Address("2002::")) | int(denied) << 80 | bits),
        IPv6Address(int(denied)),
    )
    for spelling in spellings:
        assert_same(spelling, allows_loopback=False)


def assert_same(address: IPv4Address | IPv6Address, allows_loopback: bool) -> None:
    policy = OriginPolicy(allows_loopback)
    if isinstance(address, IPv6Address) and address in IPv6Network("::ffff:0:0/96"):
        return  # the engine sees through these by itself
    by_prefix = any(address.version == prefix.version and address in prefix for prefix in policy.prefixes())
    assert by_prefix is bool(policy.refusal(DirectOrigin(address, Ports(80, 80)))), address


def test_an_address_means_itself_and_what_it_embeds() -> None:
    assert meanings(ip_address("::1")) == (ip_address("::1"),)
    assert ip_address("10.0.0.1") in meanings(ip_address("2002:a00:1::"))
