"""What the samples say: medians, spreads and ratios round by round, as tables and as JSON.

Pure: measures nothing.
"""

from dataclasses import asdict, dataclass
from statistics import median

from contestants import CONTESTANTS
from sample import Sample
from workloads import Workload

PEERS = frozenset(row.name for row in CONTESTANTS if row.is_peer)
Samples = dict[str, list[Sample]]  # by contestant, a sample for each round


@dataclass(frozen=True, slots=True)
class Ratio:
    """One contestant against another, above 1 is better: median over rounds and its range."""

    against: str
    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.against}: {self.median:.2f} [{self.least:.2f} - {self.most:.2f}]"


def middle(samples: list[Sample]) -> float:
    return median(sample.value for sample in samples)


def spread(samples: list[Sample]) -> float:
    values = [sample.value for sample in samples]
    return (max(values) - min(values)) / middle(samples) if middle(samples) else 0.0


def ratio(workload: Workload, samples: Samples, name: str, against: str) -> Ratio | None:
    pairs = zip(samples.get(name, ()), samples.get(against, ()), strict=False)
    both = [(a.value, b.value) for a, b in pairs if a.value > 0 and b.value > 0]
    values = [b / a if workload.lower_is_better else a / b for a, b in both]
    return Ratio(against, median(values), min(values), max(values)) if values else None


def best_peer(workload: Workload, samples: Samples, other_than: str) -> str | None:
    peers = [name for name in samples if name in PEERS and name != other_than and middle(samples[name]) > 0]
    best = min if workload.lower_is_better else max
    return best(peers, key=lambda name: middle(samples[name]), default=None)


def against_best(workload: Workload, samples: Samples, name: str) -> Ratio | None:
    best = best_peer(workload, samples, name)
    return ratio(workload, samples, name, best) if best else None


def _cost(samples: list[Sample]) -> float | None:
    costs = [sample.cost for sample in samples if sample.cost is not None]
    return median(costs) if costs else None


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _columns(results: dict[Workload, Samples]) -> list[str]:
    return [row.name for row in CONTESTANTS if any(row.name in samples for samples in results.values())]


def medians_table(results: dict[Workload, Samples]) -> str:
    names = _columns(results)
    rows = [
        [w.name, w.unit] + [f"{_number(middle(s[n]))} ±{spread(s[n]):.0%}" if n in s else "-" for n in names]
        for w, s in results.items()
    ]
    return _table(["workload", "unit", *names], rows)


def costs_table(results: dict[Workload, Samples]) -> str:
    names = [name for name in _columns(results) if name != "direct"]
    rows = []
    for workload, samples in results.items():
        costs = [_cost(samples[name]) if name in samples else None for name in names]
        if any(cost is not None for cost in costs):
            rows.append([workload.name, workload.cost_unit, *("-" if c is None else _number(c) for c in costs)])
    return _table(["workload", "proxy's cost", *names], rows) if rows else ""


def added_latency_table(results: dict[Workload, Samples]) -> str:
    names = _columns(results)
    rows = []
    for workload, samples in results.items():
        if not workload.is_latency or "direct" not in samples:
            continue
        for figure, of in (("p50", lambda s: s.value), ("p99", lambda s: s.p99_us or 0)):
            direct = [of(sample) for sample in samples["direct"]]
            added = {
                name: median(of(s) - base for s, base in zip(samples[name], direct, strict=False))
                for name in names
                if name in samples
            }
            rows.append([f"{workload.name} {figure}", *(f"{added[n]:.1f}" if n in added else "-" for n in names)])
    return _table(["added over direct, us", *names], rows) if rows else ""


def ratios_table(results: dict[Workload, Samples]) -> str:
    rows = []
    for workload, samples in results.items():
        for name in samples:
            if name != "direct":
                best, direct = against_best(workload, samples, name), ratio(workload, samples, name, "direct")
                rows.append([workload.name, name, str(best or "-"), str(direct or "-")])
    return _table(["workload", "contestant", "against the best (other) peer", "against direct"], rows) if rows else ""


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
            "contestants": {
                name: {
                    "median": middle(taken),
                    "spread": spread(taken),
                    "cost": _cost(taken),
                    "against_best_peer": _as_dict(against_best(workload, samples, name)),
                    "against_direct": _as_dict(ratio(workload, samples, name, "direct")) if name != "direct" else None,
                    "rounds": [asdict(sample) for sample in taken],
                }
                for name, taken in samples.items()
            },
        }
        for workload, samples in results.items()
    ]


def _as_dict(value: Ratio | None) -> dict | None:
    return asdict(value) if value else None


def text(results: dict[Workload, Samples]) -> str:
    parts = [
        ("Medians, with the spread (max - min) / median over rounds.", medians_table(results)),
        ("CPU of the proxy, user + system of its process tree.", costs_table(results)),
        ("Added latency, median over rounds of the difference in each.", added_latency_table(results)),
        ("Ratios round by round, median [min - max]; above 1 is better.", ratios_table(results)),
    ]
    trouble = "Trouble: " + ("; ".join(troubles(results)) or "none")
    return "\n\n".join([f"{title}\n\n{table}" for title, table in parts if table] + [trouble])
