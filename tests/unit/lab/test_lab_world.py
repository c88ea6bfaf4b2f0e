"""`world.toml`: what it says, and where it is wrong."""

import pytest

from causeway.lab import Lab, LabError, read_world
from causeway.lab.shape import Shape

RIGHT = """
name = "three"
seed = 7
[defaults]
jitter_ms = 0.5
[nodes.gamer]
kind = "client"
place = "Lisbon"
[nodes.ams]
kind = "pop"
place = "ams"
[nodes.game]
kind = "origin"
place = [50.1, 8.7]
programs = ["server --on '{address}'", ["other", "{dir}"]]
[[links]]
between = ["gamer", "ams"]
rtt_ms = 40
loss = 0.01
back = { delay_ms = 25, rate_mbit = 10 }
"""


def test_a_world_says_what_it_says() -> None:
    world = read_world(RIGHT, "unnamed")
    assert (world.name, world.seed) == ("three", 7)
    assert [(node.name, node.kind, node.address, node.address6) for node in world.nodes] == [
        ("gamer", "client", "198.18.1.1", "2001:db8:1::1"),
        ("ams", "pop", "198.18.2.1", "2001:db8:2::1"),
        ("game", "origin", "198.18.3.1", "2001:db8:3::1"),
    ]
    assert world.node("game").programs == (("server", "--on", "{address}"), ("other", "{dir}"))
    assert world.node("ams").programs is None
    said, *by_distance = world.links
    assert said.there == Shape(delay_ms=20, loss=0.01, jitter_ms=0.5)
    assert said.back == Shape(delay_ms=25, loss=0.01, jitter_ms=0.5, rate_mbit=10)
    assert [link.between for link in by_distance] == [("gamer", "game"), ("ams", "game")]
    assert by_distance[1].there == by_distance[1].back == Shape(delay_ms=pytest.approx(2.74, abs=0.05), jitter_ms=0.5)


def test_pops_are_by_themselves_or_a_network_in_which_all_but_control_join() -> None:
    assert read_world(RIGHT, "x").edges() == []
    more = '[nodes.fra]\nkind = "pop"\n[nodes.iad]\nkind = "pop"\nprograms = ["cat"]\n'
    world = read_world(RIGHT + more + '[network]\ncontrol = "ams"\nflags = ["--dns", "x"]', "x")
    assert world.network is not None
    assert (world.network.control, world.network.flags) == ("ams", ("--dns", "x"))
    assert [node.name for node in world.edges()] == ["fra"]


def test_without_a_mesh_only_links_that_are_listed_exist() -> None:
    assert len(read_world("mesh = false\n" + RIGHT, "x").links) == 1


def test_a_link_of_nodes_without_places_has_no_delay_of_its_own() -> None:
    text = '[nodes.a]\nkind = "client"\n[nodes.b]\nkind = "client"\n[[links]]\nbetween = ["a", "b"]'
    world = read_world(text, "x")
    assert [link.there for link in world.links] == [Shape(delay_ms=0)]
    assert world.name == "x"


def test_the_last_possible_node_has_addresses_within_the_fence() -> None:
    world = read_world("".join(f'[nodes.n{number}]\nkind = "client"\n' for number in range(511)), "x")
    assert (world.nodes[-1].address, world.nodes[-1].address6) == ("198.19.255.1", "2001:db8:1ff::1")
    assert len({node.mac for node in world.nodes}) == 511


def change(old: str, new: str) -> str:
    assert old in RIGHT
    return RIGHT.replace(old, new)


WRONG = [  # world.toml, what is told
    ("nodes = [", "world.toml: it is not TOML: "),
    ("", "world.toml: object missing required field `nodes`"),
    ("[nodes]", "world.toml: nodes: there are 0: 1 to 511 are possible"),
    (change('"three"', '"Three Pops"'), "world.toml: name: 'Three Pops' is no name: 1 to 24 of a-z, 0-9 and -"),
    (change("seed = 7", "seed = -1"), "world.toml: seed: -1 is not 0 to 2^63 - 1"),
    (change("seed = 7", "speed = 7"), "world.toml: object contains unknown field `speed`"),
    (change("seed = 7", "detour = 0.5"), "world.toml: detour: 0.5 is not 1 to 10"),
    (change("jitter_ms = 0.5", "jitter_ms = -1"), "world.toml: defaults: jitter_ms is -1: 0 to 60000"),
    (change("[nodes.ams]", "[nodes.AMS]"), "world.toml: nodes.AMS: 'AMS' is no name"),
    (change("[nodes.ams]", "[nodes.wan]"), "world.toml: nodes.wan: the WAN itself is called so"),
    (change('kind = "pop"', 'kind = "popp"'), "world.toml: nodes.ams.kind: invalid enum value 'popp'"),
    (change('kind = "pop"', ""), "world.toml: nodes.ams: object missing required field `kind`"),
    (change('"Lisbon"', '"Lisboa"'), "world.toml: nodes.gamer.place: 'Lisboa' is no city of the table"),
    (change("[50.1, 8.7]", "[95, 8.7]"), "world.toml: nodes.game.place: [95, 8.7] is no [degrees north, degrees east]"),
    (change("[50.1, 8.7]", "[50.1]"), "world.toml: nodes.game.place: expected `array` of length 2, got 1"),
    (change("'{address}'", "'{address}"), "world.toml: nodes.game.programs[0]: "),
    (change('["other", "{dir}"]', "[]"), "world.toml: nodes.game.programs[1]: it is empty"),
    (change('"gamer", "ams"]', '"gamer", "amd"]'), "links[0].between: no node is called 'amd' (did you mean 'ams'?)"),
    (change('"gamer", "ams"]', '"ams", "ams"]'), "world.toml: links[0].between: it joins 'ams' with itself"),
    (change('"gamer", "ams"]', '"gamer"]'), "world.toml: links[0].between: expected `array` of length 2, got 1"),
    (RIGHT + '[[links]]\nbetween = ["ams", "gamer"]', "links[1].between: ams and gamer are joined already"),
    (change("rtt_ms = 40", "rtt_ms = 40\ndelay_ms = 20"), "links[0]: it has both rtt_ms and delay_ms: give one"),
    (change("loss = 0.01", "loss = 1.01"), "world.toml: links[0]: loss is 1.01: 0 to 1"),
    (change("loss = 0.01", 'loss = "1%"'), "world.toml: links[0].loss: expected `float | null`, got `str`"),
    (change("rate_mbit = 10", "rate_mbit = 1e-9"), "links[0].back: rate_mbit is 1e-09: 0 (none) or 0.001 to 1e+06"),
    (change("rate_mbit = 10", "mtu = 100"), "links[0].back: mtu is 100: 0 (none) or 576 to 65535"),
    (change("loss = 0.01", "delay_ms = nan"), "links[0]: it has both"),
    (change("loss = 0.01", "loss = nan"), "links[0]: loss is nan: 0 to 1"),
    (RIGHT + '[network]\ncontrol = "game"', "network.control: 'game' is no PoP without programs of its own"),
    (RIGHT + '[network]\ncontrol = "ams"\nport = 1', "network: object contains unknown field `port`"),
    (RIGHT + f'[network]\ncontrol = "ams"\nflags = {["--x"] * 33}', "network.flags: there are 33: 32 at most"),
    ("".join(f'[nodes.n{n}]\nkind = "client"\n' for n in range(512)), "nodes: there are 512: 1 to 511"),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_a_mistake_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(LabError) as refused:
        read_world(text, "x")
    assert told in str(refused.value)
    assert refused.value.code == "lab_world"


def test_a_wrong_world_makes_no_folder(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabError):
        Lab.up("nodes = 1", tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_a_shape_is_told_to_the_relay_in_its_units() -> None:
    shape = Shape(delay_ms=1.5, loss=0.25, rate_mbit=2, queue_kb=10, mtu=0, mtu_silent=True)
    assert shape.told() == {
        "delay_us": 1500,
        "loss": 0.25,
        "rate_bps": 2_000_000,
        "queue_bytes": 10_240,
        "mtu": 0,
        "is_mtu_silent": True,
    }
