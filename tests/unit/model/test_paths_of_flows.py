"""Which way flows go on from each edge of a path, and what its snapshot says of it."""

import json

import pytest

from causeway.model.paths import Paths, Peer, edges_in, encode_overlay, from_edge, is_exit, on_paths

OVER_BOTH: Paths = (("ams-1", "fra-1"), ("fra-1",), ())

CASES = [  # paths            edge     from there                              is it the last of one?
    (OVER_BOTH, "par-1", (("ams-1", "fra-1"), ("fra-1",), ()), False),
    (OVER_BOTH, "ams-1", (("fra-1",), ()), False),
    (OVER_BOTH, "fra-1", ((),), True),
    ((("ams-1",),), "fra-1", (("ams-1",),), False),
    ((), "fra-1", (), False),
]


@pytest.mark.parametrize(("paths", "name", "rest", "is_last"), CASES)
def test_an_edge_takes_what_comes_after_it(paths: Paths, name: str, rest: Paths, is_last: bool) -> None:
    assert from_edge(paths, name) == rest
    assert is_exit(paths, name) is is_last


def test_edges_are_named_once() -> None:
    assert edges_in(OVER_BOTH) == ("ams-1", "fra-1")


@pytest.mark.parametrize(
    ("paths", "name", "told"),
    [
        ((), "par-1", {}),
        (OVER_BOTH, "par-1", {"paths": [["ams-1", "fra-1"], ["fra-1"], []]}),
        (OVER_BOTH, "fra-1", {"exit": True}),
        ((("fra-1", "ams-1"), ("fra-1",)), "fra-1", {"exit": True, "paths": [["ams-1"], []]}),
    ],
)
def test_the_snapshot_of_an_edge_has_its_own_ways(paths: Paths, name: str, told: dict[str, object]) -> None:
    assert json.loads(on_paths(b'{"id":"1"}', paths, name)) == {"id": "1", **told}


def test_where_control_chooses_the_snapshot_says_that_ways_are_told_apart() -> None:
    assert json.loads(on_paths(b'{"id":"1"}', (), "par-1", is_steered=True)) == {"id": "1", "steered": True}
    steered = on_paths(b'{"id":"1"}', (), "par-1", is_last=True, is_steered=True)
    assert json.loads(steered) == {"id": "1", "exit": True, "steered": True}


def test_an_edge_is_told_of_the_others_and_not_of_itself() -> None:
    peers = (Peer("fra-1", "203.0.113.7:4280"), Peer("ams-1", "[2001:db8::9]:4280"), Peer("lon", "192.0.2.1:1", True))
    assert json.loads(encode_overlay("fra-1", "203.0.113.7:4280", peers)) == {
        "name": "fra-1",
        "listen": "203.0.113.7:4280",
        "peers": [
            {"name": "ams-1", "address": "[2001:db8::9]:4280"},
            {"name": "lon", "address": "192.0.2.1:1", "drained": True},
        ],
    }
