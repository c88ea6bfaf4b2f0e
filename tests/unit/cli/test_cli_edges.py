"""What a line of `causeway edges` says of an edge."""

from typing import Any

import pytest

from causeway.answers import ControlNode, ControlStatus, PopEdge, PopStatus
from causeway.cli.edges import state_text
from causeway.cli.pops import state_text as pop_text
from causeway.cli.status import control_text
from causeway.model.edge import pop_of


def edge(version: int = 7, is_draining: bool = False, refused: int = 0, **remote: Any) -> Any:
    told = {"is_silent": False, "silent_s": 0.4, "trouble": None, "is_drained": False, **remote}
    known: dict[str, Any] = {"version": version, "is_draining": is_draining, "refused": [{}] * refused}
    return known | ({"remote": told} if remote else {})


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (edge(), "serving"),
        (edge(refused=1), "serving, 1 listener refused"),
        (edge(refused=2), "serving, 2 listeners refused"),
        (edge(version=6, trouble=None), "behind"),
        (edge(version=9, trouble=None), "serving"),
        (edge(version=6, is_held=True), "serving, a change waits"),
        (edge(version=6, is_held=True, trouble="it does not answer"), "behind: it does not answer"),
        (edge(version=6, trouble="it has no memory left"), "behind: it has no memory left"),
        (edge(is_draining=True, trouble="x"), "draining"),
        (edge(is_drained=True), "drained"),
        (edge(is_drained=True, trouble="it does not answer"), "behind: it does not answer"),
        (edge(is_draining=True, is_silent=True, silent_s=75.0), "silent for 1 min 15 s"),
    ],
)
def test_the_most_pressing_is_said(told: Any, state: str) -> None:
    assert state_text(told, 7) == state


@pytest.mark.parametrize(
    ("states", "text"),
    [
        (["serving"], "serving"),
        (["serving", "serving"], "serving"),
        (["drained"], "drained"),
        (["drained", "drained"], "drained"),
        (["silent", "serving"], "1 serving, 1 silent"),
        (["drained", "silent", "drained"], "0 serving, 2 drained, 1 silent"),
    ],
)
def test_what_a_pop_does_is_what_its_edges_do(states: list[str], text: str) -> None:
    edges = [PopEdge(name=f"fra-{number}", state=state) for number, state in enumerate(states)]
    pop = PopStatus(name="fra", edges=edges, connections_open=0, bytes_ingress=0, bytes_egress=0)
    assert pop_text(pop) == text


@pytest.mark.parametrize(
    ("edge_name", "pop"),
    [
        ("fra-1", "fra"),
        ("fra-12", "fra"),
        ("fra", "fra"),
        ("us-east-2", "us-east"),
        ("local", "local"),
        ("pop-a", "pop-a"),
    ],
)
def test_edges_that_differ_by_a_number_are_of_one_pop(edge_name: str, pop: str) -> None:
    assert pop_of(edge_name) == pop


@pytest.mark.parametrize(
    ("states", "trouble", "text"),
    [
        (["announced"], None, "serving, announced 198.18.0.0/32"),
        (["announced", "withdrawn"], None, "serving, announced 198.18.0.0/32, withdrawn 198.18.1.0/32"),
        (["announced"], "BIRD is not there", "serving; anycast: see causeway status"),
    ],
)
def test_what_routers_are_told_is_said(states: list[str], trouble: str | None, text: str) -> None:
    prefixes = [{"prefix": f"198.18.{n}.0/32", "state": state} for n, state in enumerate(states)]
    assert state_text({**edge(), "anycast": {"prefixes": prefixes, "trouble": trouble}}, 7) == text


def node(name: str, silent_s: float = 0.2, is_connected: bool = True) -> ControlNode:
    return {"name": name, "url": f"http://{name}", "silent_s": silent_s, "is_connected": is_connected, "software": "1"}


def control(leader: str | None, answers: str, *nodes: ControlNode, trouble: str | None = None) -> ControlStatus:
    url = f"http://{leader}" if leader else None
    return {
        "node": answers, "leads": leader == answers, "leader": leader, "leader_url": url, "term": 7,
        "trouble": trouble, "nodes": list(nodes),
    }  # fmt: skip


CONTROL = [
    (control("ams", "ams", node("ams")), "ams leads (http://ams, term 7)"),
    (control("ams", "fra", node("ams"), node("fra")), "ams leads (http://ams, term 7); fra answers"),
    (
        control("ams", "ams", node("ams"), node("fra"), node("nyc", is_connected=False), node("sin", 90.0)),
        "ams leads (http://ams, term 7); fra stands by; nyc stands by, without the exchange; sin silent for 1 min 30 s",
    ),
    (control(None, "fra", node("fra"), trouble="no database"), "nobody leads; fra answers; no database"),
]


@pytest.mark.parametrize(("told", "said"), CONTROL)
def test_status_says_which_control_node_leads(told: ControlStatus, said: str) -> None:
    assert control_text(told) == said
