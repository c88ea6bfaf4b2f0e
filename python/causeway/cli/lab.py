"""`causeway lab`: a world of PoPs, clients and origins on this machine, made, changed and taken down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.command import Group, GroupedCommand
from causeway.cli.problems import Missing, Misuse
from causeway.cli.render import Format, Output, bytes_text, hint, print_json, print_table, say

if TYPE_CHECKING:
    from causeway.lab import Lab
    from causeway.lab.lab import Status
    from causeway.lab.wan import LinkStatus

DEFAULT_FILE = Path("world.toml")

File = Annotated[
    Path | None,
    typer.Option("-f", "--file", metavar="FILE", help="The world. Default: ./world.toml.", rich_help_panel="Lab"),
]
Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Where the lab has its data, logs and record. Default: ~/.local/state/causeway/lab/NAME.",
        rich_help_panel="Lab",
    ),
]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="The name of a node.")]
Other = Annotated[str | None, typer.Argument(metavar="[OTHER]", help="The other end, if it is the link that is meant.")]
OneWay = Annotated[bool, typer.Option("--one-way", help="Only from the first node to the second.")]

app = typer.Typer(
    name="lab",
    help="Make a world of PoPs, clients and origins on this machine, joined by an emulated WAN.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=GroupedCommand)
def up(file: File = None, dir_: Dir = None) -> None:
    """Make the world, start its programs and wait until its PoPs and origins serve."""
    from causeway.lab import Lab

    path = file or DEFAULT_FILE
    lab = Lab.up(_read(path), dir_, path.stem, str(path))
    say(f"up       {len(lab.world.nodes)} nodes, {len(lab.world.links)} links, in {lab.folder}")
    hint("  next   causeway lab status, causeway lab shell NODE, causeway lab link A B --rtt-ms 80, causeway lab down")


@app.command(cls=GroupedCommand)
def down(file: File = None, dir_: Dir = None) -> None:
    """End the lab's programs and remove its namespaces and files."""
    from causeway.lab.lab import take_down

    for left in take_down(_folder(file, dir_)):
        hint(f"left     {left}: the lab did not start it")
    say("down     nothing of the lab is left")


@app.command(cls=GroupedCommand)
def fail(node: NodeName, other: Other = None, one_way: OneWay = False, file: File = None, dir_: Dir = None) -> None:
    """Let nothing reach or leave a node; with two nodes, cut the link between them."""
    _open(file, dir_).fail(node, other, one_way=one_way)
    say(f"failed   {_ends(node, other, one_way)}")


@app.command(cls=GroupedCommand)
def heal(node: NodeName, other: Other = None, one_way: OneWay = False, file: File = None, dir_: Dir = None) -> None:
    """Undo `fail`."""
    _open(file, dir_).heal(node, other, one_way=one_way)
    say(f"healed   {_ends(node, other, one_way)}")


@app.command(cls=GroupedCommand)
def link(
    a: Annotated[str, typer.Argument(metavar="A", help="One end.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other end.")],
    one_way: OneWay = False,
    rtt_ms: Annotated[float | None, typer.Option("--rtt-ms", metavar="MS", help="Half of it each way.")] = None,
    delay_ms: Annotated[float | None, typer.Option("--delay-ms", metavar="MS", help="Each way.")] = None,
    jitter_ms: Annotated[
        float | None, typer.Option("--jitter-ms", metavar="MS", help="As much less or more; order is kept.")
    ] = None,
    loss: Annotated[float | None, typer.Option("--loss", metavar="SHARE", help="0 to 1.")] = None,
    duplicate: Annotated[float | None, typer.Option("--duplicate", metavar="SHARE", help="0 to 1.")] = None,
    reorder: Annotated[
        float | None, typer.Option("--reorder", metavar="SHARE", help="0 to 1; held back by --reorder-ms.")
    ] = None,
    reorder_ms: Annotated[float | None, typer.Option("--reorder-ms", metavar="MS", help="Default: 10.")] = None,
    rate_mbit: Annotated[
        float | None, typer.Option("--rate-mbit", metavar="MBIT", help="Mbit/s of the line; 0: no limit.")
    ] = None,
    queue_kb: Annotated[
        float | None, typer.Option("--queue-kb", metavar="KIB", help="What may wait for the line. Default: 256.")
    ] = None,
    mtu: Annotated[int | None, typer.Option("--mtu", metavar="BYTES", help="Of IP packets; 0: no limit.")] = None,
    mtu_silent: Annotated[
        bool | None, typer.Option("--mtu-silent/--mtu-told", help="Whether a sender is told what is too big.")
    ] = None,
    file: File = None,
    dir_: Dir = None,
) -> None:
    """Change a link while it runs. What is not named stays as it is; without options, it is shown."""
    told = {
        "rtt_ms": rtt_ms, "delay_ms": delay_ms, "jitter_ms": jitter_ms, "loss": loss, "duplicate": duplicate,
        "reorder": reorder, "reorder_ms": reorder_ms, "rate_mbit": rate_mbit, "queue_kb": queue_kb, "mtu": mtu,
        "mtu_silent": mtu_silent,
    }  # fmt: skip
    values = {name: value for name, value in told.items() if value is not None}
    lab = _open(file, dir_)
    if values:
        lab.link(a, b, one_way=one_way, **values)
    _print_links([lab.direction(a, b)] if one_way else [lab.direction(a, b), lab.direction(b, a)])


@app.command(cls=GroupedCommand, context_settings={"ignore_unknown_options": True})
def shell(
    node: NodeName,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND…]", help="What to run; by default your shell.")
    ] = None,
    file: File = None,
    dir_: Dir = None,
) -> None:
    """Run a command, or a shell, in the network of a node; in a PoP, `causeway` commands reach its API."""
    from causeway.lab import namespaces
    from causeway.lab.lab import DATA
    from causeway.lab.programs import environment

    lab = _open(file, dir_)
    words = ["nsenter", f"--net={namespaces.path(lab.namespace(node))}", "--", *(command or [_shell()])]
    settings = dict(environment(node))
    token = lab.node_folder(node) / DATA / "token"
    if token.exists():
        settings["CAUSEWAY_API_TOKEN"] = token.read_text().strip()
    os.execvpe("nsenter", words, settings)  # noqa: S606 - the command's own exit status and terminal


@app.command(cls=GroupedCommand)
def status(
    all_: Annotated[bool, typer.Option("--all", help="All links, also those that nothing went over.")] = False,
    output: Output = Format.TABLE,
    file: File = None,
    dir_: Dir = None,
) -> None:
    """Show nodes, whether their programs run, and what went over the links."""
    found = _open(file, dir_).status(is_all=all_)
    if output is Format.JSON:
        import msgspec

        print_json(msgspec.to_builtins(found))
        return
    _print_nodes(found)
    if found.wan.links:
        print()
        _print_links(found.wan.links)
    late, outside = found.wan.late, found.wan.outside
    frames = late.under_50_us + late.under_100_us + late.under_300_us + late.under_1_ms + late.more
    in_time = frames - late.under_1_ms - late.more
    print()
    say(
        f"frames   {frames} handed over, {in_time / frames if frames else 1:.2%} within 0.3 ms of their time, "
        f"the latest {late.worst_us / 1000:.1f} ms after it"
    )
    say(f"fence    {outside['fenced']} frames to no address of a lab, {outside['unlinked']} to where no link leads")


def _print_nodes(found: Status) -> None:
    rows = []
    for node in found.nodes:
        alive = sum(program["is_alive"] for program in node.programs)
        state = "failed" if node.is_failed else "up"
        rows.append([node.name, node.kind, node.place, node.address, node.address6, state,
                     f"{alive} of {len(node.programs)}"])  # fmt: skip
    print_table(["NAME", "KIND", "PLACE", "IPV4", "IPV6", "STATE", "PROGRAMS"], rows)


def _print_links(links: list[LinkStatus]) -> None:
    rows = []
    for one in links:
        shape, counts = one.shape, one.counts
        dropped = {name: counts[name] for name in ("lost", "queue_full", "too_big", "cut", "no_memory") if counts[name]}
        rows.append([
            one.source, one.target, f"{shape['delay_us'] / 1000:g} ms", _rest(shape), str(counts["arrived"]),
            bytes_text(counts["arrived_bytes"]), " ".join(f"{n} {c}" for n, c in dropped.items()) or "-",
        ])  # fmt: skip
    print_table(["FROM", "TO", "DELAY", "SHAPE", "FRAMES", "BYTES", "DROPPED"], rows)


def _rest(shape: dict[str, float | bool]) -> str:
    told = [
        "cut" if shape["is_cut"] else "",
        f"jitter {shape['jitter_us'] / 1000:g} ms" if shape["jitter_us"] else "",
        *(f"{name} {shape[name]:.3g}" for name in ("loss", "duplicate", "reorder") if shape[name]),
        f"{shape['rate_bps'] / 1e6:g} Mbit/s" if shape["rate_bps"] else "",
        f"MTU {shape['mtu']}{' silent' if shape['is_mtu_silent'] else ''}" if shape["mtu"] else "",
    ]
    return ", ".join(word for word in told if word) or "-"


def _ends(node: str, other: str | None, one_way: bool) -> str:
    return node if other is None else f"{node} {'->' if one_way else '<->'} {other}"


def _open(file: Path | None, folder: Path | None) -> Lab:
    from causeway.lab import Lab

    return Lab.open(_folder(file, folder))


def _folder(file: Path | None, folder: Path | None) -> Path:
    if folder:
        return folder
    from causeway.lab import read_world
    from causeway.lab.record import default_folder

    path = file or DEFAULT_FILE
    return default_folder(read_world(_read(path), path.stem, str(path)).name)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise Missing(f"{path} does not exist: write a world (docs/lab.md), or name one with -f") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"{path} cannot be read: {error}") from error


def _shell() -> str:
    return os.environ.get("SHELL") or "/bin/sh"
