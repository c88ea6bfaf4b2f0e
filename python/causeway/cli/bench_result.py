"""What a run of the bench found, as far as a table and a chart need it: read from its file, nothing is measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUBJECT = "causeway"
FORMAT = 2
TITLES = {
    "tcp-crr": "Connections, closed by FIN",
    "tcp-crr-rst": "Connections, closed by RST",
    "tcp-rr-16": "Round trips of 64 B on 16 connections",
    "tcp-rr-256": "Round trips of 64 B on 256 connections",
    "bulk-up-4": "Upload on 4 streams",
    "bulk-down-4": "Download on 4 streams",
    "bulk-up-1": "Upload on 1 stream",
    "bulk-down-1": "Download on 1 stream",
    "udp-8x32": "UDP round trips of 200 B, 8 flows x 32",
    "udp-256x2": "UDP round trips of 200 B, 256 flows x 2",
    "tcp-lat": "Latency of TCP at 2,000 messages a second",
    "udp-lat": "Latency of UDP at 2,000 messages a second",
    "mem-5000": "Memory of an idle connection",
}


@dataclass(frozen=True, slots=True)
class Ratio:
    """Our figure divided by that of the best peer in the same round."""

    against: str
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What one contestant reached: the figure in each round, and CPU for a unit of work."""

    value: float
    rounds: tuple[float, ...]
    cost: float | None
    cost_rounds: tuple[float, ...]
    ratio: Ratio | None
    cost_ratio: Ratio | None


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    unit: str
    cost_unit: str | None
    is_lower_better: bool
    figures: dict[str, Figures]  # by contestant, in the order of the bench

    @property
    def title(self) -> str:
        return TITLES.get(self.name, self.name)


@dataclass(frozen=True, slots=True)
class Result:
    started: str
    machine: str
    versions: dict[str, str]
    not_measured: dict[str, str]
    workloads: tuple[Workload, ...]


class Unreadable(Exception):
    """The file is no result of the bench, or of a newer one."""


def read(path: Path) -> Result:
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise Unreadable(f"{path}: format {content['format']}, this reads {FORMAT}")
        facts = content["machine"]
        return Result(
            content["started"],
            f"{facts['cpus']} x {facts['cpu']}, kernel {facts['kernel']}",
            content["versions"],
            content["not_measured"],
            tuple(_workload(row) for row in content["workloads"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{path}: not a result of the bench ({type(error).__name__}: {error})") from error


def number_text(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f} k"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _workload(row: dict[str, Any]) -> Workload:
    figures = {name: _figures(found) for name, found in row["contestants"].items()}
    return Workload(row["name"], row["unit"], row["cost_unit"], row["lower_is_better"], figures)


def _figures(found: dict[str, Any]) -> Figures:
    rounds = found["rounds"]
    return Figures(
        found["median"],
        tuple(sample["value"] for sample in rounds),
        found["cost"],
        tuple(sample["cost"] for sample in rounds if sample["cost"] is not None),
        _ratio(found["against_best_peer"]),
        _ratio(found.get("cost_against_best_peer")),
    )


def _ratio(found: dict[str, Any] | None) -> Ratio | None:
    return Ratio(found["against"], found["median"], found["least"], found["most"]) if found else None
