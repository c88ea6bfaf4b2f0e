"""`causeway zones`: the names under which applications live."""

from __future__ import annotations

from typing import Annotated

import typer

from causeway.cli.command import Group, GroupedCommand
from causeway.cli.lookup import choose_zone
from causeway.cli.problems import Missing, Misuse
from causeway.cli.render import Format, Output, hint, print_json, print_table, say
from causeway.cli.session import TokenFile, Url, connect

app = typer.Typer(
    name="zones",
    help="Create, list, change and delete zones.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=GroupedCommand)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Domain name, like example.net.", show_default=False)],
    account: Annotated[
        str | None,
        typer.Option("--account", metavar="NAME|ID", help="Account; not needed when there is one."),
    ] = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Make a zone. Its names are answered by causeway up --dns; else point them at the edge yourself."""
    with connect(url, token_file) as client:
        accounts = [a for a in client.accounts() if account in (None, a["id"], a["name"])]
        if not accounts:
            raise Missing(f"there is no account {account!r}")
        if len(accounts) > 1:
            raise Misuse("say which account with --account; there are: " + ", ".join(a["name"] for a in accounts))
        zone = client.create_zone(name, accounts[0]["id"])
    if output is Format.JSON:
        print_json(zone)
    else:
        say(f"created zone {zone['name']} ({zone['id']})", style="green")
        hint("next:  causeway apps create --preset ssh --origin ADDR")


@app.command("list", cls=GroupedCommand)
def list_(output: Output = Format.TABLE, url: Url = None, token_file: TokenFile = None) -> None:
    """List zones, how many applications each has, and whether smart routing is on for all of them."""
    with connect(url, token_file) as client:
        zones = client.zones()
        if output is Format.JSON:
            print_json(zones)
            return
        rows = [
            (zone["id"], zone["name"], str(len(client.applications(id_))), client.smart_routing(id_)["value"])
            for zone, id_ in ((zone, zone["id"]) for zone in zones)
        ]
    if rows:
        print_table(("ID", "NAME", "APPLICATIONS", "SMART ROUTING"), rows)
    else:
        hint("no zones yet; make one with `causeway zones create example.net`")


@app.command(cls=GroupedCommand)
def update(
    zone: Annotated[str, typer.Argument(metavar="ZONE", help="Name or ID.", show_default=False)],
    smart_routing: Annotated[
        bool,
        typer.Option(
            "--smart-routing/--no-smart-routing",
            help="Let control choose over which edges flows of all its applications go, where that can be.",
            show_default=False,
        ),
    ],
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Change a setting of a zone. What its applications say themselves stays."""
    with connect(url, token_file) as client:
        chosen = choose_zone(client.zones(), zone)
        setting = client.set_smart_routing(chosen["id"], is_on=smart_routing)
        applications = client.applications(chosen["id"])
    if output is Format.JSON:
        print_json(setting)
        return
    say(f"smart routing is {setting['value']} for zone {chosen['name']}", style="green")
    for application in applications:
        told = application.get("x_causeway", {}).get("smart_routing")
        if isinstance(told, dict) and not told["on"]:
            hint(f"{application['dns']['name']} {application['protocol']} stays direct: {told['reason']}")


@app.command(cls=GroupedCommand)
def delete(
    zone: Annotated[str, typer.Argument(metavar="ZONE", help="Name or ID.", show_default=False)],
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Delete a zone that has no applications any more."""
    with connect(url, token_file) as client:
        chosen = choose_zone(client.zones(), zone)
        client.delete_zone(chosen["id"])
    if output is Format.JSON:
        print_json({"id": chosen["id"]})
    else:
        say(f"deleted zone {chosen['name']} ({chosen['id']})")
