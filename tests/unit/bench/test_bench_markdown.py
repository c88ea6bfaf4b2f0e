"""A page's tables are refreshed between their markers, and nothing else of it is touched."""

import re
from pathlib import Path

import markdown
import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"
MARKED = re.compile(r"<!-- bench:([\w-]+) -->\n(.*?)<!-- /bench:\1 -->", re.DOTALL)
KNOWN = {
    "machine",
    "summary",
    "figures",
    "costs",
    "whole",
    "latency",
    "shares",
    "goals",
    "workers",
    "syscalls",
    "profile",
}


def _content(others_cpus: float) -> dict:
    sample = {"value": 10.0, "cost": 2.0, "proxy_cpus": 0.9, "client_cpus": 0.5, "origin_cpus": 0.4}
    ratio = {"against": "nginx", "median": 0.5, "least": 0.4, "most": 0.6}
    found = {
        "median": 10.0,
        "spread": 0.1,
        "cost": 2.0,
        "added": None,
        "rounds": [sample | {"others_cpus": others_cpus}],
    }
    ours = found | {"against_best_peer": ratio, "cost_against_best_peer": ratio, "added_against_best_peer": None}
    workload = {"name": "tcp-crr", "unit": "conn/s", "cost_unit": "CPU ms per 1,000"}
    facts = {"cpus": 2, "cpu": "Some", "memory_bytes": 2**34, "kernel": "6.1", "is_virtual": True, "commit": "c" * 40}
    goal = {"workload": "tcp-crr", "sentence": "CPU", "is_gate": True, "state": "MISSED", "found": "0.99"}
    return {
        "kind": "peers",
        "started": "2026-01-02T03-04-05",
        "options": {"rounds": 5, "seconds": 1.2, "calm": False},
        "machine": facts | {"has_local_changes": False},
        "versions": {"direct": "-", "nginx": "1.2.3", "causeway": "0.1.0"},
        "not_measured": {"envoy": "not installed"},
        "strays": 0,
        "workloads": [workload | {"contestants": {"nginx": found, "causeway": ours}}],
        "goals": [goal],
        "repeated": {"goals": [goal | {"state": "met", "found": "0.80"}]},
    }


def test_the_cpu_of_the_whole_machine_stands_beside_that_of_the_proxy() -> None:
    content = _content(0.0)
    ours = content["workloads"][0]["contestants"]["causeway"]
    ours["whole_against_best_peer"] = {"against": "nginx", "median": 0.9, "least": 0.8, "most": 1.0}
    assert "0.90 [0.80 - 1.00] x nginx" in markdown.blocks(content)["whole"]


def test_a_run_with_bare_relays_fills_their_table_and_no_other() -> None:
    content = _content(0.0)
    content["versions"]["loop-epoll"] = "bench/loops"
    row = content["workloads"][0]["contestants"]
    row["loop-epoll"] = row["causeway"]
    blocks = markdown.blocks(content)
    assert blocks.keys() == {"loops"} and "| CPU x nginx | 0.50 [0.40 - 0.60] |" in blocks["loops"]


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- bench:costs -->\nold\n<!-- /bench:costs -->\n"
        "after\n<!-- bench:other -->\nx\n<!-- /bench:other -->\n"
    )
    markdown.refresh(page, _content(0.0))
    text = page.read_text()
    assert text.startswith("before\n<!-- bench:costs -->\n| workload")
    assert text.endswith("<!-- /bench:costs -->\nafter\n<!-- bench:other -->\nx\n<!-- /bench:other -->\n")
    assert "old" not in text


def test_a_goal_that_was_met_when_repeated_says_both() -> None:
    assert re.search(r"0\.99; repeated alone: 0\.80 +\| met ", markdown.goals_table(_content(0.0)))


@pytest.mark.parametrize(("others_cpus", "is_warned"), [(0.1, False), (1.2, True)])
def test_a_run_that_others_disturbed_says_so_in_the_page(others_cpus: float, is_warned: bool) -> None:
    assert ("**A disturbed run**" in markdown.blocks(_content(others_cpus))["machine"]) is is_warned


def test_who_was_left_out_is_in_the_page_with_the_reason() -> None:
    assert re.search(r"envoy +\| left out: not installed", markdown.blocks(_content(0.0))["machine"])


@pytest.mark.parametrize("page", ["performance.md", "benchmarks.md"])
def test_every_table_of_the_documentation_is_one_that_a_run_can_refresh(page: str) -> None:
    blocks = dict(MARKED.findall((DOCS / page).read_text()))
    assert blocks.keys() <= KNOWN | {"instructions", "loops"}
    assert all("|" in block for block in blocks.values()), "a table is empty: make bench-docs"
