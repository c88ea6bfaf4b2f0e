"""Write the tables of a result file between the markers of a page: `<!-- bench:NAME -->` … `<!-- /bench:NAME -->`.

Also a program, for results at hand: markdown.py RESULTS.json PAGE.md… Only blocks that the results can fill are
touched, so a page is refreshed by several runs of different kinds. Pure but for `replace`.
"""

import json
import re
import sys
from pathlib import Path
from statistics import median

import hotspots
import syscalls
from report import number, table
from sample import CALM_CPUS

SUBJECT = "causeway"
Content = dict  # a result file


def refresh(page: Path, content: Content) -> None:
    replace(page, blocks(content))


def replace(page: Path, named: dict[str, str]) -> None:
    text = page.read_text()
    for name, block in named.items():
        marked = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
        text = marked.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
    made = page.with_name(page.name + ".new")
    made.write_text(text)
    made.replace(page)


def blocks(content: Content) -> dict[str, str]:
    match content["kind"]:
        case "syscalls":
            counts = content["syscalls"]
            said = (_occasion(content), syscalls.totals_table(counts), syscalls.detail_table(counts))
            return {"syscalls": "\n\n".join(said)}
        case "profile":
            rows = {
                name: {who: hotspots.Spent(**spent) for who, spent in row.items()}
                for name, row in content["profile"].items()
            }
            return {"profile": f"{_occasion(content)}\n\n{hotspots.profile_table(rows)}"}
        case "workers":
            return {"workers": f"{_occasion(content)}\n\n{goals_table(content)}\n\n{_shares(content)}"}
        case "fast-path":
            return {"fast-path": f"{_occasion(content)}\n\n{_fast_path(content)}\n\n{_shares(content)}"}
        case _:
            bare = [name for name in _names(content) if name.startswith("loop-")]
            if bare:
                return {"loops": _loops(content)}
            return {
                "machine": _machine(content),
                "summary": _summary(content),
                "figures": _figures(content),
                "costs": _costs(content),
                "whole": _whole(content),
                "latency": _latency(content),
                "shares": _shares(content),
                "goals": goals_table(content),
            }


def goals_table(content: Content) -> str:
    again = {(row["workload"], row["sentence"]): row for row in content["repeated"]["goals"]}
    rows = []
    for row in content["goals"]:
        last = again.get((row["workload"], row["sentence"])) if row["state"] == "MISSED" else None
        found = row["found"] + (f"; repeated alone: {last['found']}" if last else "")
        kind = "gate" if row["is_gate"] else "reported"
        rows.append([row["workload"], row["sentence"], found, (last or row)["state"], kind])
    return table(["workload", "goal", "found", "", ""], rows) if rows else ""


def _machine(content: Content) -> str:
    facts, options = content["machine"], content["options"]
    calm = ", disturbed runs repeated" if options["calm"] else ""
    rows = [
        ["when", content["started"].replace("T", " ").replace("-", ":").replace(":", "-", 2) + " UTC"],
        [
            "machine",
            f"{facts['cpus']} x {facts['cpu']}, {facts['memory_bytes'] / 2**30:.0f} GiB, kernel {facts['kernel']}",
        ],
        ["virtual machine", "yes" if facts["is_virtual"] else "no"],
        ["rounds", f"{options['rounds']}, {options['seconds']:g} s each{calm}"],
        ["congestion control", options.get("congestion", "the machine's")],
        ["commit", facts["commit"][:12] + (" with local changes" if facts["has_local_changes"] else "")],
        *([name, version] for name, version in content["versions"].items() if name != "direct"),
        *([name, f"left out: {reason}"] for name, reason in content["not_measured"].items()),
        ["work of others", _disturbance(content)],
        ["packets that left", str(content["strays"])],
    ]
    warning = (
        f"\n\n**A disturbed run**: other work had more than {CALM_CPUS} CPUs in most of it. "
        "Its ratios are no verdict; repeat it on a quiet machine."
        if median(_work_of_others(content)) > CALM_CPUS
        else ""
    )
    return table(["", ""], rows) + warning


def _disturbance(content: Content) -> str:
    samples = _work_of_others(content)
    disturbed = sum(cpus > CALM_CPUS for cpus in samples)
    return f"{median(samples):.2f} CPUs at the median; {disturbed} of {len(samples)} runs above {CALM_CPUS}"


def _work_of_others(content: Content) -> list[float]:
    found = (found for row in content["workloads"] for found in row["contestants"].values())
    return [sample["others_cpus"] for contestant in found for sample in contestant["rounds"]]


def _summary(content: Content) -> str:
    rows = []
    for row in content["workloads"]:
        ours = row["contestants"].get(SUBJECT)
        if not ours:
            continue
        rate, cost = ours["against_best_peer"], ours["cost_against_best_peer"]
        if row["name"].endswith("-lat"):
            rate = ours["added_against_best_peer"]
            value = f"+{number(ours['added'])} us p50" if ours["added"] is not None else "-"
            peer = row["contestants"][rate["against"]]["added"] if rate else None
        else:
            value = f"{number(ours['median'])} {row['unit']}"
            peer = row["contestants"][rate["against"]]["median"] if rate else None
        cells = [f"{rate['against']} {number(peer)}", _ratio(rate)] if rate and peer is not None else ["-", "-"]
        costs = [number(ours["cost"]) if ours["cost"] is not None else "-", "-", "-"]
        if cost:
            costs[1:] = [f"{cost['against']} {number(row['contestants'][cost['against']]['cost'])}", _ratio(cost)]
        rows.append([row["name"], value, *cells, *costs, row["cost_unit"] or ""])
    head = ["workload", "causeway", "best peer", "ratio", "CPU per unit", "best peer", "ratio", "unit"]
    return table(head, rows)


def _figures(content: Content) -> str:
    names = _names(content)
    rows = [[row["name"], row["unit"], *(_median(row, name) for name in names)] for row in content["workloads"]]
    return table(["workload", "unit", *names], rows)


def _costs(content: Content) -> str:
    names = [name for name in _names(content) if name != "direct"]
    rows = []
    for row in content["workloads"]:
        costs = [(row["contestants"].get(name) or {}).get("cost") for name in names]
        if row["cost_unit"]:
            rows.append([row["name"], row["cost_unit"], *("-" if cost is None else number(cost) for cost in costs)])
    return table(["workload", "CPU of the proxy", *names], rows)


def _loops(content: Content) -> str:
    """The bare relays beside causeway and the peers: the least that a proxy over the same kernel can cost."""
    names = [name for name in _names(content) if name == SUBJECT or name.startswith("loop-")]
    rows = []
    for row in content["workloads"]:
        figures = (
            (("added_against_best_peer", "added p50"),)
            if row["name"].endswith("-lat")
            else (("cost_against_best_peer", "CPU"), ("whole_against_best_peer", "CPU of the machine"))
        )
        for key, said in figures:
            ratios = [(row["contestants"].get(name) or {}).get(key) for name in names]
            against = next((found["against"] for found in ratios if found), None)
            if against:
                rows.append(
                    [row["name"], f"{said} x {against}", *(_ratio(found) if found else "-" for found in ratios)]
                )
    return f"{_occasion(content)}\n\n{table(['workload', 'against', *names], rows)}"


def _fast_path(content: Content) -> str:
    """Every goal of the fast path beside what was found, and the figures themselves."""
    rows = [
        [row["workload"], row["sentence"], row["found"], row["state"]]
        for row in content["goals"]
        if row["sentence"].startswith("fast-path")
    ]
    return f"{_figures(content)}\n\n{table(['workload', 'goal', 'found', ''], rows)}"


def _whole(content: Content) -> str:
    names = [name for name in _names(content) if name != "direct"]
    rows = []
    for row in content["workloads"]:
        ratios = [(row["contestants"].get(name) or {}).get("whole_against_best_peer") for name in names]
        if row["cost_unit"]:
            rows.append([row["name"], *(f"{_ratio(found)} x {found['against']}" if found else "-" for found in ratios)])
    return table(["CPU of the whole machine", *names], rows)


def _latency(content: Content) -> str:
    names = [name for name in _names(content) if name != "direct"]
    rows = []
    for row in content["workloads"]:
        added = [(row["contestants"].get(name) or {}).get("added") for name in names]
        if any(value is not None for value in added):
            rows.append([f"{row['name']}, us", *("-" if value is None else f"{value:.1f}" for value in added)])
    return table(["added p50 over direct", *names], rows)


def _shares(content: Content) -> str:
    names = _names(content)
    rows = [
        [row["name"], *(_share(row["contestants"].get(name)) for name in names)]
        for row in content["workloads"]
        if row["cost_unit"]
    ]
    return table(["CPUs of proxy / client / origin", *names], rows)


def _occasion(content: Content) -> str:
    facts = content["machine"]
    day = content["started"].partition("T")[0]
    return (
        f"Measured on {day}, commit {facts['commit'][:12]}, {facts['cpus']} x {facts['cpu']}, kernel {facts['kernel']}."
    )


def _names(content: Content) -> list[str]:
    return [name for name in content["versions"] if any(name in row["contestants"] for row in content["workloads"])]


def _median(row: dict, name: str) -> str:
    found = row["contestants"].get(name)
    return f"{number(found['median'])} ±{found['spread']:.0%}" if found else "-"


def _share(found: dict | None) -> str:
    if not found:
        return "-"
    columns = [[sample[key] for sample in found["rounds"]] for key in ("proxy_cpus", "client_cpus", "origin_cpus")]
    middles = [sorted(column)[len(column) // 2] if None not in column else None for column in columns]
    return " / ".join("-" if middle is None else f"{middle:.2f}" for middle in middles)


def _ratio(ratio: dict) -> str:
    return f"{ratio['median']:.2f} [{ratio['least']:.2f} - {ratio['most']:.2f}]"


if __name__ == "__main__":
    results, *pages = map(Path, sys.argv[1:])
    for target in pages:
        refresh(target, json.loads(results.read_text()))
