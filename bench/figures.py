"""Numbers from samples: medians, spreads, and ratios taken round by round. Pure, and knows no goal and no table.

A series is one figure of one workload: for each contestant a number for each round, None where it has none.
"""

from dataclasses import dataclass
from statistics import median

from contestants import CONTESTANTS, FAST_PATH, FAST_PATH_V2, GUARDED, LOOPS
from sample import Sample
from workloads import Workload

PEERS = tuple(row.name for row in CONTESTANTS if row.is_peer)
COPYING = tuple(row.name for row in CONTESTANTS if row.is_peer and not row.splices)
ORDER = {row.name: place for place, row in enumerate((*CONTESTANTS, FAST_PATH, FAST_PATH_V2, GUARDED, *LOOPS))}
Samples = dict[str, list[Sample]]  # by contestant, a sample for each round
Series = dict[str, list[float | None]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One contestant's figure divided by another's in the same round: median over rounds and its range."""

    against: str
    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.least:.2f} - {self.most:.2f}] x {self.against}"


def values(samples: Samples) -> Series:
    return {name: [sample.value for sample in taken] for name, taken in samples.items()}


def costs(samples: Samples) -> Series:
    """CPU of the proxy for a piece of work."""
    return {name: [sample.cost for sample in taken] for name, taken in samples.items()}


def shares(samples: Samples) -> Series:
    """CPUs that the proxy's processes had."""
    return {name: [sample.proxy_cpus for sample in taken] for name, taken in samples.items()}


def whole(samples: Samples) -> Series:
    """CPU of the whole machine for what is counted in the figure, whoever was charged for it.

    The kernel does much of a proxy's work in whichever process an interrupt meets, so that a proxy's own share can
    fall by its being placed well. Client, origin, other work: everything is in it.
    """
    return {name: [_whole(sample) for sample in taken] for name, taken in samples.items()}


def _whole(sample: Sample) -> float | None:
    cpus = (sample.proxy_cpus or 0.0) + sample.client_cpus + sample.origin_cpus + sample.others_cpus
    return cpus / sample.value if sample.value else None


def added(samples: Samples) -> Series:
    """What a latency is above that of no proxy at all, in the same round."""
    direct = [sample.value for sample in samples.get("direct", ())]
    return {
        name: [sample.value - base for sample, base in zip(taken, direct, strict=False)]
        for name, taken in samples.items()
        if name != "direct"
    }


def middle(series: Series, name: str) -> float | None:
    known = [value for value in series.get(name, ()) if value is not None]
    return median(known) if known else None


def spread(series: Series, name: str) -> float:
    known = [value for value in series.get(name, ()) if value is not None]
    return (max(known) - min(known)) / median(known) if known and median(known) else 0.0


def ratio(series: Series, name: str, against: str) -> Ratio | None:
    pairs = zip(series.get(name, ()), series.get(against, ()), strict=False)
    found = [a / b for a, b in pairs if a is not None and b is not None and a > 0 and b > 0]
    return Ratio(against, median(found), min(found), max(found)) if found else None


def best(series: Series, among: tuple[str, ...], *, lowest: bool) -> str | None:
    middles = {name: value for name in among if (value := middle(series, name)) is not None and value > 0}
    return (min if lowest else max)(middles, key=middles.__getitem__, default=None)


def against_best(series: Series, name: str, *, lowest: bool, among: tuple[str, ...] = PEERS) -> Ratio | None:
    found = best(series, tuple(peer for peer in among if peer != name), lowest=lowest)
    return ratio(series, name, found) if found else None


def rate_against_best(workload: Workload, samples: Samples, name: str) -> Ratio | None:
    return against_best(values(samples), name, lowest=workload.lower_is_better)


def cost_against_best(samples: Samples, name: str) -> Ratio | None:
    return against_best(costs(samples), name, lowest=True)


def whole_against_best(samples: Samples, name: str) -> Ratio | None:
    """Against the peer that has the lowest CPU of its own, so that both ratios speak of the same one."""
    found = best(costs(samples), tuple(peer for peer in PEERS if peer != name), lowest=True)
    return ratio(whole(samples), name, found) if found else None


def in_order(names: set[str]) -> list[str]:
    """As the table of contestants has them; who is not in it comes last."""
    return sorted(names, key=lambda name: (ORDER.get(name, len(ORDER)), name))
