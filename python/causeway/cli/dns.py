"""`causeway dns`: what the names of applications are answered with, and the same for Knot DNS."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from causeway.cli.command import Group, GroupedCommand
from causeway.cli.problems import Misuse
from causeway.cli.render import Format, Output, hint, print_json, print_table, say
from causeway.cli.session import TokenFile, Url, connect

app = typer.Typer(
    name="dns",
    help="See what names are answered with, and have Knot DNS answer the same.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Server(StrEnum):
    KNOT = "knot"


@app.command(cls=GroupedCommand)
def show(output: Output = Format.TABLE, url: Url = None, token_file: TokenFile = None) -> None:
    """List names with the edges that they are answered with now: those that are fit."""
    with connect(url, token_file) as client:
        told = client.names()
    if output is Format.JSON:
        print_json(told)
        return
    rows = []
    for name in told["table"]["names"]:
        for site in name["sites"] or [{"addresses": ["none: no edge is fit"], "location": None}]:
            location = site["location"]
            where = f"{location[0]:.2f}, {location[1]:.2f}" if location else "not told"
            rows.append((name["name"], ", ".join(site["addresses"]), where))
    print_table(("NAME", "ADDRESSES", "PLACE"), rows)
    if not told["knows_places"]:
        hint("where clients are is not known: give a database of countries with causeway geo update --country FILE")


@app.command(cls=GroupedCommand)
def export(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the files.", show_default=False)],
    geo: Annotated[
        Path, typer.Option("--geo", metavar="FILE", help="MMDB file that Knot is to read.", show_default=False)
    ],
    format_: Annotated[Server, typer.Option("--format", help="For which name server.")] = Server.KNOT,
    geo_key: Annotated[
        str,
        typer.Option("--geo-key", metavar="KEY", help="Where that file has the country; MaxMind: country/iso_code."),
    ] = "country_code",
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Write what names are answered with now as files of another name server: include DIR/causeway.conf."""
    from causeway.model.knot import countries, knot_files
    from causeway.model.names import read_table

    with connect(url, token_file) as client:
        told = client.names()
    import msgspec

    folder = str(out.absolute())
    if '"' in folder + str(geo) or not all(part.isidentifier() for part in geo_key.split("/")):
        raise Misuse(f"{folder}, {geo} or {geo_key} cannot be written into a configuration")
    table = read_table(msgspec.json.encode(told["table"]))
    files = knot_files(table, countries(), folder, str(geo.absolute()), geo_key).by_name
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            fresh = out / f".{name}.new"
            fresh.write_text(text)
            fresh.replace(out / name)
    except OSError as error:
        raise Misuse(f"{out} cannot be written: {error.strerror}") from None
    if output is Format.JSON:
        print_json({"directory": folder, "files": sorted(files), "serial": table.serial})
        return
    say(f"wrote {len(files)} files to {folder}, serial {table.serial}", style="green")
    hint(f'in knot.conf:  include: "{folder}/causeway.conf"   then, and after each export:  knotc reload')
