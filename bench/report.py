"""What the samples say, as tables and as JSON. Pure: measures nothing."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

import figures
from figures import Ratio, Samples
from workloads import Workload


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def medians_table(results: dict[Workload, Samples]) -> str:
    names = _columns(results)
    rows = []
    for workload, samples in results.items():
        series = figures.values(samples)
        cells = [_with_spread(figures.middle(series, name), figures.spread(series, name)) for name in names]
        rows.append([workload.name, workload.unit, *cells])
    return table(["workload", "unit", *names], rows)


def costs_table(results: dict[Workload, Samples]) -> str:
    names = [name for name in _columns(results) if name != "direct"]
    rows = []
    for workload, samples in results.items():
        series = figures.costs(samples)
        cells = [figures.middle(series, name) for name in names]
        if any(cell is not None for cell in cells):
            rows.append([workload.name, workload.cost_unit, *("-" if c is None else number(c) for c in cells)])
    return table(["workload", "proxy's cost", *names], rows) if rows else ""


def added_latency_table(results: dict[Workload, Samples]) -> str:
    names = [name for name in _columns(results) if name != "direct"]
    rows = []
    for workload, samples in results.items():
        if not workload.is_latency or "direct" not in samples:
            continue
        series = figures.added(samples)
        cells = [figures.middle(series, name) for name in names]
        rows.append([f"{workload.name} p50", *("-" if cell is None else f"{cell:.1f}" for cell in cells)])
        base = [sample.p99_us or 0 for sample in samples["direct"]]
        tails = {
            name: median((sample.p99_us or 0) - least for sample, least in zip(samples[name], base, strict=False))
            for name in names
            if name in samples
        }
        rows.append([f"{workload.name} p99", *(f"{tails[n]:.1f}" if n in tails else "-" for n in names)])
    return table(["added over direct, us", *names], rows) if rows else ""


def ratios_table(results: dict[Workload, Samples]) -> str:
    rows = []
    for workload, samples in results.items():
        for name in samples:
            if name == "direct":
                continue
            series = figures.values(samples)
            found = [
                figures.rate_against_best(workload, samples, name),
                figures.ratio(series, name, "direct"),
                figures.cost_against_best(samples, name),
                figures.whole_against_best(samples, name) if workload.cost_unit else None,
            ]
            rows.append([workload.name, name, *(str(ratio or "-") for ratio in found)])
    return table(["workload", "contestant", "figure", "figure", "CPU per unit", "of the machine"], rows) if rows else ""


def shares_table(results: dict[Workload, Samples]) -> str:
    names = _columns(results)
    rows = [
        [workload.name, *(_shares(samples, name) for name in names)]
        for workload, samples in results.items()
        if workload.cost_unit
    ]
    return table(["proxy / client / origin", *names], rows) if rows else ""


def troubles(results: dict[Workload, Samples]) -> list[str]:
    found = []
    for workload, samples in results.items():
        for name, taken in samples.items():
            sums = {key: sum(getattr(s, key) for s in taken) for key in ("errors", "wrong", "lost", "stuck")}
            if any(sums.values()):
                counts = ", ".join(f"{count:,} {key}" for key, count in sums.items() if count)
                first = next((f" ({s.trouble})" for s in taken if s.trouble), "")
                found.append(f"{workload.name} {name}: {counts}{first}")
    return found


def as_json(results: dict[Workload, Samples]) -> list[dict]:
    return [
        {
            "name": workload.name,
            "unit": workload.unit,
            "lower_is_better": workload.lower_is_better,
            "cost_unit": workload.cost_unit or None,
            "contestants": {name: _contestant(workload, samples, name) for name in samples},
        }
        for workload, samples in results.items()
    ]


def _contestant(workload: Workload, samples: Samples, name: str) -> dict:
    series, costs = figures.values(samples), figures.costs(samples)
    added = figures.added(samples) if workload.is_latency else {}
    return {
        "median": figures.middle(series, name),
        "spread": figures.spread(series, name),
        "cost": figures.middle(costs, name),
        "added": figures.middle(added, name),
        "against_best_peer": _as_dict(figures.rate_against_best(workload, samples, name)),
        "against_direct": _as_dict(figures.ratio(series, name, "direct")) if name != "direct" else None,
        "cost_against_best_peer": _as_dict(figures.cost_against_best(samples, name)),
        "whole_against_best_peer": _as_dict(figures.whole_against_best(samples, name)) if workload.cost_unit else None,
        "added_against_best_peer": _as_dict(figures.against_best(added, name, lowest=True)),
        "rounds": [asdict(sample) for sample in samples[name]],
    }


def text(results: dict[Workload, Samples]) -> str:
    parts = [
        ("Medians, with the spread (max - min) / median over rounds.", medians_table(results)),
        ("CPU of the proxy, user + system of its process tree.", costs_table(results)),
        ("CPUs in use, median: where the client's is near 1 it is the limit.", shares_table(results)),
        ("Added latency, median over rounds of the difference in each.", added_latency_table(results)),
        (
            "Ratios round by round, median [min - max], to the best other peer and to direct. Figures: above 1 is "
            "better, but below it for latency and memory. CPU per unit, of the proxy and of the whole machine: below 1 "
            "is better.",
            ratios_table(results),
        ),
    ]
    trouble = "Trouble: " + ("; ".join(troubles(results)) or "none")
    return "\n\n".join([f"{title}\n\n{table}" for title, table in parts if table] + [trouble])


def _columns(results: dict[Workload, Samples]) -> list[str]:
    return figures.in_order({name for samples in results.values() for name in samples})


def _with_spread(value: float | None, spread: float) -> str:
    return "-" if value is None else f"{number(value)} ±{spread:.0%}"


def _shares(samples: Samples, name: str) -> str:
    taken = samples.get(name)
    if not taken:
        return "-"
    proxy = [sample.proxy_cpus for sample in taken if sample.proxy_cpus is not None]
    parts = [proxy, [sample.client_cpus for sample in taken], [sample.origin_cpus for sample in taken]]
    return " / ".join(f"{median(part):.2f}" if part else "-" for part in parts)


def _as_dict(value: Ratio | None) -> dict | None:
    return asdict(value) if value else None
