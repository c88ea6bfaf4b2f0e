"""`causeway routes`: which ways flows take, and what smart routing makes of recorded measurements.

`replay` needs no server: it reads and writes files. What is decided, and what it came to, is routing's.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from causeway.cli.apps import all_applications
from causeway.cli.command import Group, GroupedCommand
from causeway.cli.lookup import choose_application
from causeway.cli.problems import Missing, Misuse
from causeway.cli.render import Format, Output, duration_text, hint, print_json, print_table, say
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from causeway.answers import Route, RouteGain, Waits
    from causeway.client import Client
    from causeway.routing.replay import Outcome

PROGRESS_S = 5.0  # between two lines; shorter work says nothing
KEY = "rtt_ms"

app = typer.Typer(
    name="routes",
    help="See which ways flows of smart applications take, and why.",
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode=None,
)

alone = typer.Typer()  # what is not below `causeway routes`
Found = TypeVar("Found", "Route", "RouteGain")

From = Annotated[str | None, typer.Option("--from", metavar="EDGE", help="Only from this edge.", show_default=False)]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="APP", help="Only to the origins of this application: name, hostname or ID."),
]


@app.callback()
def list_(
    context: typer.Context,
    start: From = None,
    end: To = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List the ways that flows of smart applications take from each edge."""
    if context.invoked_subcommand is not None:
        return
    with connect(url, token_file) as client:
        found = _chosen(client, start, end)
    if output is Format.JSON:
        print_json(found)
    elif found:
        print_table(("APPLICATION", "FROM", "PATH", "COST", "DIRECT", "GAIN", "FOR"), [_row(one) for one in found])
    elif start or end:
        hint("no such route: causeway routes lists all of them")
    else:
        hint(
            "no routes yet: they are for applications with argo_smart_routing, once edges with --overlay have flows "
            "of them"
        )


@alone.command(cls=GroupedCommand)
@app.command(cls=GroupedCommand)
def explain(
    end: Annotated[str, typer.Argument(metavar="APP", help="Name, hostname or ID of the application.")],
    start: From = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show every path that was weighed for an application, and the parts that its cost is the sum of."""
    with connect(url, token_file) as client:
        found = _chosen(client, start, end)
    if output is Format.JSON:
        print_json(found)
        return
    if not found:
        raise Missing(f"there is no route to {end}{f' from {start}' if start else ''}; see `causeway routes`")
    rows = [
        (
            route["edge"],
            _path_text(candidate["path"]) + ("" if number else "  (in use)"),
            _ms_text(candidate["cost_ms"]),
            " + ".join(f"{part['of']} {_ms_text(part['ms'])}" for part in candidate["parts"]),
        )
        for route in found
        for number, candidate in enumerate(route["candidates"])
    ]
    print_table(("FROM", "PATH", "COST", "WHICH IS"), rows)


@app.command(cls=GroupedCommand)
def gains(
    start: From = None,
    end: To = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show what smart routing is worth: how long clients of the last ten minutes waited for a first byte.

    One flow of 64 goes direct, so both are measured at the same time. Of the gain, one part is the way (its round trip
    is shorter), the other that connections between edges are ready before a flow comes.
    """
    with connect(url, token_file) as client:
        found = _of(client, client.gains(), start, end)
    if output is Format.JSON:
        print_json(found)
    elif found:
        head = (
            "APPLICATION",
            "FROM",
            "OVER",
            "FLOWS",
            "P50",
            "P95",
            "DIRECT",
            "P50",
            "P95",
            "GAIN",
            "BY WAY",
            "BY CONNECTION",
        )
        print_table(head, [_gain_row(one) for one in found])
        for one in found:
            has_flows = one["over"]["count"] or one["direct"]["count"]
            if has_flows and (reason := one["gain"]["reason"]):
                hint(f"{one['name'] or one['application']} from {one['edge']}: {reason}")
    else:
        hint("nothing to compare: there is no such route; see `causeway routes`")


def _gain_row(of: RouteGain) -> tuple[str, ...]:
    over, direct, gain = of["over"], of["direct"], of["gain"]

    def waits(one: Waits) -> tuple[str, str, str]:
        return str(one["count"]), _known_text(one["p50_ms"]), _known_text(one["p95_ms"])

    name, path = of["name"] or of["application"], ">".join(of["path"] or ()) or "-"
    parts = (gain["mean_ms"], gain["routing_ms"], gain["connection_ms"])
    return (name, of["edge"], path, *waits(over), *waits(direct), *map(_known_text, parts))


def _known_text(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:.1f} ms"


def _chosen(client: Client, start: str | None, end: str | None) -> list[Route]:
    return _of(client, client.routes(), start, end)


def _of(client: Client, found: list[Found], start: str | None, end: str | None) -> list[Found]:
    """Those from one edge, to the origins of one application."""
    if end:
        id_ = choose_application(all_applications(client, None), end)[1]["id"]
        found = [one for one in found if one["application"] == id_]
    return [one for one in found if start in (None, one["edge"])]


def _row(route: Route) -> tuple[str, ...]:
    return (
        route["name"] or route["application"],
        route["edge"],
        _path_text(route["path"]),
        _ms_text(route["cost_ms"]),
        _ms_text(route["direct_ms"]),
        _ms_text(route["gain_ms"]) if route["path"] else "",
        duration_text(route["since_s"]),
    )


def _path_text(path: list[str]) -> str:
    return " > ".join(path) or "direct"


def _ms_text(ms: float | None) -> str:
    return "no way" if ms is None else f"{ms:.1f} ms"


@app.command(cls=GroupedCommand)
def replay(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.npz", help=f"With the array {KEY}: [slice, from, to], milliseconds.")
    ],
    train: Annotated[int, typer.Option("--train", metavar="N", help="So many slices only teach; the rest is judged.")],
    slice_s: Annotated[float, typer.Option("--slice-s", metavar="S", help="Seconds from one slice to the next.")],
    relay_cost_ms: Annotated[
        float, typer.Option("--relay-cost-ms", metavar="C", help="What a relay adds to the sum of its two legs.")
    ],
    relays: Annotated[
        int | None,
        typer.Option("--relays", metavar="K", help="Only K relays, chosen by the first N slices. Default: every node."),
    ] = None,
    choices: Annotated[
        Path | None,
        typer.Option("--choices", metavar="OUT.npz", help="Write choice[slice, from, to]: -1 direct, or the relay."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Route by recorded measurements, each slice decided from those before it, and tell what it came to."""
    _check(slice_s, relay_cost_ms, relays, choices)
    measured = _read(file)

    from causeway.routing.mesh import MalformedMesh
    from causeway.routing.replay import replay as run

    try:
        done = run(measured, train, slice_s, relay_cost_ms, relays, _Progress())
    except MalformedMesh as error:
        raise Misuse(f"{file}: {error}") from error
    if choices:
        _write(choices, done.choice)
    if output is Format.JSON:
        print_json({**asdict(done.outcome), "gain": done.outcome.gain, "choices": str(choices) if choices else None})
        return
    _print(done.outcome, slice_s)
    if choices:
        say(f"choices  {choices}")


class _Progress:
    """A line now and then while it takes long."""

    def __init__(self) -> None:
        self._said_s = time.monotonic()

    def __call__(self, done: int, slices: int) -> None:
        if time.monotonic() - self._said_s >= PROGRESS_S:
            self._said_s = time.monotonic()
            hint(f"replay   {done} of {slices} slices")


def _print(outcome: Outcome, slice_s: float) -> None:
    hours = outcome.slices * slice_s / 3600
    rows = [
        ("pairs, slices judged, relays", f"{outcome.pairs}, {outcome.slices}, {outcome.relays}"),
        ("direct, mean", f"{outcome.direct_ms:.1f} ms"),
        ("chosen, mean", f"{outcome.chosen_ms:.1f} ms"),
        ("gain", f"{outcome.gain:.1%}"),
        ("choices that are a relay", f"{outcome.relayed_share:.1%}"),
        ("switches per pair", f"{outcome.switches_per_pair:.2f} ({outcome.switches_per_pair / hours:.2f} an hour)"),
        ("a switch was taken to cost, mean", f"{outcome.price_ms:.1f} ms"),
        ("pairs made more than 5 % slower", f"{outcome.slower_share:.2%}"),
    ]
    if outcome.direct_lost_share or outcome.chosen_lost_share:
        rows += [
            ("without a path, direct", f"{outcome.direct_lost_share:.3%}"),
            ("without a path, chosen", f"{outcome.chosen_lost_share:.3%}"),
        ]
    print_table(["FIGURE", "VALUE"], rows)


def _check(slice_s: float, relay_cost_ms: float, relays: int | None, choices: Path | None) -> None:
    if not 0 < slice_s < float("inf"):
        raise Misuse(f"--slice-s {slice_s:g}: slices are some seconds apart, more than 0")
    if not 0 <= relay_cost_ms < float("inf"):
        raise Misuse(f"--relay-cost-ms {relay_cost_ms:g}: a relay costs 0 ms or more")
    if relays is not None and relays < 0:
        raise Misuse(f"--relays {relays}: how many relays there are, 0 or more")
    if choices and not choices.parent.is_dir():
        raise Misuse(f"--choices {choices} cannot be written: there is no directory {choices.parent}")


def _read(file: Path) -> NDArray[np.generic]:
    import zipfile

    import numpy

    try:
        with file.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise Misuse(f"{file} is no .npz file: write one with numpy.savez(FILE, {KEY}=…)")
            opened.seek(0)
            arrays = numpy.load(opened, allow_pickle=False)
            if KEY not in arrays.files:
                raise Misuse(f"{file} has no array {KEY}; it has {', '.join(arrays.files) or 'none'}")
            found: NDArray[np.generic] = arrays[KEY]
            return found
    except FileNotFoundError:
        raise Missing(f"{file} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Misuse(f"{file} cannot be read as .npz: {error}") from error


def _write(path: Path, choice: NDArray[np.int16]) -> None:
    """Put the whole file in place at once, or leave what was there."""
    import numpy

    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as unfinished:
            try:
                numpy.savez_compressed(unfinished, choice=choice)
                unfinished.close()
                Path(unfinished.name).chmod(0o666 & ~_umask())
                Path(unfinished.name).replace(path)
            except BaseException:
                Path(unfinished.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Misuse(f"--choices {path} cannot be written: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
