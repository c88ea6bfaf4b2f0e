"""The snapshot is canonical, mirrors the model, and is what the engine reads: golden cases, both languages."""

import json
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from causeway.model.document.application import parse_application
from causeway.model.origin_policy import parse_network
from causeway.model.paths import Peer, encode_overlay, on_paths
from causeway.model.snapshot import Settings, at_addresses, encode_application, encode_snapshot
from causeway.native import Edge, NativeError

VECTORS = Path(__file__).parents[3] / "vectors/snapshots"
ACCEPT = json.loads((VECTORS / "accept.json").read_text())
REFUSE = json.loads((VECTORS / "refuse.json").read_text())
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def encoded(case: dict[str, Any]) -> bytes:
    """The snapshot that control makes of the documents of a case."""
    available = tuple(ip_address(text) for text in case["edge_addresses"])
    pieces = []
    for number, document in enumerate(case["documents"]):
        made = parse_application(
            document, application_id=f"{number + 1:032x}", zone_id="f" * 32, created_on=WHEN, now=WHEN
        )
        piece = encode_application(made, made.edge_addresses(available))
        pieces.append(on_paths(piece, made.extension.paths, case.get("name", ""), is_steered=made.is_smart))
    told = case["settings"]
    settings = Settings(
        origin_deny=tuple(parse_network(text) for text in told["origin_deny"]),
        origin_deny_sockets=tuple((ip_address(host), port) for host, port in told["origin_deny_sockets"]),
        allow_loopback_origins=told["allow_loopback_origins"],
        resolvers=tuple((ip_address(host), port) for host, port in told["resolvers"]),
        source_addresses=tuple(ip_address(text) for text in told.get("source_addresses", ())),
        mitigation=told.get("mitigation", True),
    )
    overlay = None
    if others := case.get("overlay"):
        overlay = encode_overlay(case["name"], others["listen"], (Peer(*peer) for peer in others["peers"]))
    return encode_snapshot(case["snapshot"]["version"], settings, pieces, overlay=overlay)


@pytest.mark.parametrize("case", ACCEPT, ids=[case["case"] for case in ACCEPT])
def test_documents_become_the_snapshot_of_the_vector(case: dict[str, Any]) -> None:
    canonical = json.dumps(case["snapshot"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    if "overlay" in case:  # the keys that are of one edge alone come last
        assert json.loads(encoded(case)) == case["snapshot"]
    else:
        assert encoded(case) == canonical


@pytest.fixture(scope="module")
def engine() -> Edge:
    started = Edge.start(b'{"workers":1,"state_dir":null}')
    started.apply(encode_snapshot(1, Settings(), ()))  # what is older than that is stale
    return started


@pytest.mark.parametrize("others", [(), ("203.0.113.7",), ("203.0.113.7", "2001:db8::7", "::ffff:192.0.2.1")])
def test_an_application_at_other_addresses_is_as_if_it_was_encoded_there(others: tuple[str, ...]) -> None:
    addresses = tuple(ip_address(text) for text in others)
    documents = [document for case in ACCEPT for document in case["documents"]]
    assert len(documents) > 10
    for document in documents:
        hostile = {**document, "x_causeway": {**document.get("x_causeway", {}), "name": 'a"edge_addresses":["b"],"c'}}
        for told in (document, hostile):
            made = parse_application(told, application_id="a" * 32, zone_id="f" * 32, created_on=WHEN, now=WHEN)
            for at in ((ip_address("192.0.2.1"),), (ip_address("::1"), ip_address("127.0.0.1"))):
                assert at_addresses(encode_application(made, at), addresses) == encode_application(made, addresses)


@pytest.mark.parametrize("case", ACCEPT, ids=[case["case"] for case in ACCEPT])
def test_the_engine_takes_it(engine: Edge, case: dict[str, Any]) -> None:
    version = json.loads(engine.observe(0))["version"]
    snapshot = case["snapshot"] | {"version": version + 1}
    report = json.loads(engine.apply(json.dumps(snapshot).encode()))
    assert report["version"] == version + 1
    ids = {application["id"] for application in snapshot["applications"] if application["edge_addresses"]}
    others = {"overlay"} if "overlay" in snapshot else set()
    assert {listener["application"] for listener in report["listeners"]} == ids | others


@pytest.mark.parametrize("case", REFUSE, ids=[case["case"] for case in REFUSE])
def test_the_engine_refuses_the_rest_and_changes_nothing(engine: Edge, case: dict[str, Any]) -> None:
    before = json.loads(engine.observe(0))["version"]
    text = case["text"] if "text" in case else json.dumps(case["snapshot"])
    with pytest.raises(NativeError) as refused:
        engine.apply(text.encode())
    assert refused.value.code == case["code"]
    assert case.get("says", "") in refused.value.message
    assert json.loads(engine.observe(0))["version"] == before
