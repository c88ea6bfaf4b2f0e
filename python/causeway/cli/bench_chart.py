"""A bench result as one SVG: for each workload a group of bars, and beside it the CPU that a unit of work took.

Pure: text in, text out. Every bar starts at zero and bears its number; the thin line over it spans the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from causeway.cli.bench_result import SUBJECT, Figures, Result, Workload, number_text

WIDTH, MARGIN, GAP = 1000, 24, 40
PANEL = (WIDTH - 2 * MARGIN - GAP) // 2
NAME_WIDTH, NUMBER_WIDTH = 104, 76
BAR, PITCH = 13, 19
HEAD, GROUP_HEAD, GROUP_GAP = 78, 40, 18
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
INK, FAINT, RULE = "#1b1f24", "#5b6470", "#d8dde3"
OURS, PEER, DIRECT = "#0a6ebd", "#9aa5b1", "#dfe4ea"

Bar = tuple[str, float, Sequence[float]]  # contestant, median, rounds


def chart(result: Result) -> str:
    """Draw every workload of the result."""
    parts: list[str] = []
    top = HEAD
    for workload in result.workloads:
        height = GROUP_HEAD + PITCH * len(workload.figures)
        parts.append(_group(workload, top))
        top += height + GROUP_GAP
    head = [
        _text(MARGIN, 30, "causeway beside its peers", size=18, weight=600),
        _text(
            MARGIN, 49, f"{result.machine}; {_time(result)}; bars are medians, thin lines span the rounds", fill=FAINT
        ),
        _text(MARGIN, 65, _absent(result), fill=FAINT),
    ]
    size = f"width='{WIDTH}' height='{top}'"
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {top}' {size} {FONT}>",
        "<title>causeway beside its peers</title>",
        f"<rect {size} fill='#ffffff'/>",
        *filter(None, head),
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _group(workload: Workload, top: int) -> str:
    better = "shorter is better" if workload.is_lower_better else "longer is better"
    bars = _bars(workload, lambda found: found.value, lambda found: found.rounds)
    parts = [
        f"<line x1='{MARGIN}' x2='{WIDTH - MARGIN}' y1='{top}' y2='{top}' stroke='{RULE}'/>",
        _text(MARGIN, top + 18, workload.title, size=13, weight=600),
        _text(MARGIN, top + 33, f"{_unit(workload.unit)}, {better}", fill=FAINT),
        _panel(MARGIN, top + GROUP_HEAD, bars),
    ]
    costs = _bars(workload, lambda found: found.cost, lambda found: found.cost_rounds)
    if costs:
        left = MARGIN + PANEL + GAP
        parts.append(_text(left, top + 33, f"{_cost_unit(workload)}, shorter is better", fill=FAINT))
        parts.append(_panel(left, top + GROUP_HEAD, costs))
    return "\n".join(parts)


def _bars(
    workload: Workload, value: Callable[[Figures], float | None], rounds: Callable[[Figures], Sequence[float]]
) -> list[Bar]:
    named = ((name, value(found), rounds(found)) for name, found in workload.figures.items())
    return [(name, middle, taken) for name, middle, taken in named if middle is not None]


def _panel(left: int, top: int, bars: Sequence[Bar]) -> str:
    room = PANEL - NAME_WIDTH - NUMBER_WIDTH
    most = max((max(value, *taken, 0.0) for _, value, taken in bars), default=0.0) or 1.0
    start = left + NAME_WIDTH
    return "\n".join(_bar(start, top + PITCH * row, room / most, bar) for row, bar in enumerate(bars))


def _bar(start: int, top: int, scale: float, bar: Bar) -> str:
    name, value, taken = bar
    is_ours = name.startswith(SUBJECT)
    fill = OURS if is_ours else DIRECT if name == "direct" else PEER
    weight = 600 if is_ours else 400
    width = max(1.0, value * scale)
    least, most = (start + end * scale for end in (min(taken, default=value), max(taken, default=value)))
    middle = top + BAR / 2
    parts = [
        _text(start - 8, top + 10.5, name, anchor="end", weight=weight),
        f"<rect x='{start}' y='{top}' width='{width:.1f}' height='{BAR}' rx='1.5' fill='{fill}'/>",
    ]
    if most - least >= 2:
        parts.append(f"<path d='M{least:.1f} {middle}H{most:.1f}' stroke='{INK}' stroke-opacity='.55'/>")
    parts.append(_text(max(start + width, most) + 6, top + 10.5, number_text(value), weight=weight))
    return "".join(parts)


def _text(
    x: float, y: float, words: str, *, size: int = 11, weight: int = 400, fill: str = INK, anchor: str = "start"
) -> str:
    shape = f"font-size='{size}' font-weight='{weight}' fill='{fill}' text-anchor='{anchor}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {shape}>{escape(words)}</text>" if words else ""


def _unit(unit: str) -> str:
    long = {"conn/s": "connections/s", "rt/s": "round trips/s", "us p50": "µs, median", "B RSS/conn": "bytes each"}
    return long.get(unit, unit)


def _cost_unit(workload: Workload) -> str:
    return f"CPU of the proxy, {(workload.cost_unit or '').removeprefix('CPU ')}"


def _time(result: Result) -> str:
    day, _, time = result.started.partition("T")
    return f"{day} {time.replace('-', ':')}"


def _absent(result: Result) -> str:
    return f"Left out: {', '.join(result.not_measured)}" if result.not_measured else ""
