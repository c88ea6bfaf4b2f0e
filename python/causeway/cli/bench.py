"""`causeway bench`: the side-by-side run of this project, on the machine of whoever asks.

Runs bench/run.py of a checkout as a program of its own, then shows its result file as a table and a chart.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.command import GroupedCommand
from causeway.cli.problems import EXIT_MISUSE, EXIT_REFUSED, Misuse
from causeway.cli.render import Format, Output, hint, print_json, print_table, say

if TYPE_CHECKING:
    from causeway.cli.bench_result import Ratio, Result, Workload

app = typer.Typer(rich_markup_mode=None)
CHECKOUT = Path(__file__).resolve().parents[3]
RESULTS_AT = "results: "
COLUMNS = ("WORKLOAD", "CAUSEWAY", "BEST PEER", "RATIO", "CPU", "BEST PEER", "RATIO", "CPU UNIT")
NONE = ("-", "-")


@app.command(cls=GroupedCommand)
def bench(
    only: Annotated[
        str | None, typer.Option("--only", metavar="NAME[,NAME]", help="These workloads. Default: all.")
    ] = None,
    contestants: Annotated[
        str | None, typer.Option("--contestants", metavar="NAME[,NAME]", help="These contestants. Default: all.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, max=100, metavar="N", help="Interleaved rounds. Default: 5.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One round of half a second: does it work at all.")] = False,
    calm: Annotated[bool, typer.Option("--calm", help="Repeat what other work on the machine disturbed.")] = False,
    results: Annotated[
        Path | None, typer.Option("--results", metavar="DIR", help="Keep results here. Default: bench/results.")
    ] = None,
    bench_dir: Annotated[
        Path | None, typer.Option("--bench-dir", metavar="DIR", help="The bench folder of a checkout.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Measure causeway beside HAProxy, nginx and Envoy on this machine.

    Needs root, for network namespaces of its own; nothing leaves them. Who is not installed is left out, and named.
    """
    words = [
        *(["--only", only] if only else []),
        *(["--contestants", contestants] if contestants else []),
        *(["--rounds", str(rounds)] if rounds else []),
        *(["--quick"] if quick else []),
        *(["--calm"] if calm else []),
        *(["--results", str(results.resolve())] if results else []),
    ]
    path = _measure(program(bench_dir), words)
    chart_path = path.with_suffix(".svg")

    from causeway.cli.bench_chart import chart
    from causeway.cli.bench_result import read

    result = read(path)
    chart_path.write_text(chart(result), encoding="utf-8")
    if output is Format.JSON:
        print_json(as_json(result, path, chart_path))
        return
    say("")
    print_table(COLUMNS, [row(workload) for workload in result.workloads])
    say("")
    for name, reason in result.not_measured.items():
        say(f"left out: {name}: {reason}", style="yellow")
    say(f"results  {path}")
    say(f"chart    {chart_path}")
    hint("Ratios are medians over rounds, causeway divided by the peer; for CPU, latency and memory below 1 is better.")


def program(bench_dir: Path | None) -> Path:
    """Find the bench, or say where it is to be had."""
    found = (bench_dir or CHECKOUT / "bench") / "run.py"
    if found.is_file():
        return found.resolve()
    if bench_dir:
        raise Misuse(f"{found} does not exist; --bench-dir names the folder bench of a checkout")
    raise Misuse(
        "the bench is part of the source, not of an installed package: get a checkout, run `make setup bench-deps` "
        "there, then this command again with --bench-dir CHECKOUT/bench, or `make bench`"
    )


def row(workload: Workload) -> tuple[str, ...]:
    ours = workload.figures.get("causeway")
    if ours is None:
        return (workload.name, *NONE * 3, workload.cost_unit or "")
    rate = _against(workload, ours.ratio, is_cost=False)
    cost = _against(workload, ours.cost_ratio, is_cost=True)
    return (
        workload.name,
        f"{_number(ours.value)} {workload.unit}",
        *rate,
        "-" if ours.cost is None else _number(ours.cost),
        *cost,
        workload.cost_unit or "",
    )


def as_json(result: Result, path: Path, chart_path: Path) -> dict[str, object]:
    return {
        "results": str(path),
        "chart": str(chart_path),
        "machine": result.machine,
        "versions": result.versions,
        "not_measured": result.not_measured,
        "workloads": [
            {
                "name": workload.name,
                "unit": workload.unit,
                "cost_unit": workload.cost_unit,
                "medians": {name: found.value for name, found in workload.figures.items()},
                "costs": {name: found.cost for name, found in workload.figures.items() if found.cost is not None},
            }
            for workload in result.workloads
        ],
    }


def _measure(run: Path, words: list[str]) -> Path:
    """Run it with its progress on our stderr, and return the file that it names at its end."""
    found = None
    command = [sys.executable, str(run), "--brief", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if line.startswith(RESULTS_AT):
                    found = Path(line.removeprefix(RESULTS_AT).strip())
                else:
                    print(line, end="", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            process.wait()  # it was told too, and takes its namespaces down first
            raise
    if process.returncode == 0 and found:
        return found
    # It has said why on stderr.
    raise typer.Exit(EXIT_MISUSE if process.returncode == EXIT_MISUSE else EXIT_REFUSED)


def _against(workload: Workload, ratio: Ratio | None, *, is_cost: bool) -> tuple[str, str]:
    if ratio is None:
        return NONE
    peer = workload.figures[ratio.against]
    value = peer.cost if is_cost else peer.value
    said = "-" if value is None else f"{ratio.against} {_number(value)}"
    return said, f"{ratio.median:.2f} [{ratio.least:.2f} - {ratio.most:.2f}]"


def _number(value: float) -> str:
    from causeway.cli.bench_result import number_text

    return number_text(value)
