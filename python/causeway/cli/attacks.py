"""`causeway attacks`, `causeway mitigation`: what attacked whom, what was done, and the switch of it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.apps import all_applications
from causeway.cli.command import Group, GroupedCommand
from causeway.cli.lookup import ID, PREFIX_MIN_CHARS, choose_application
from causeway.cli.problems import Missing, Misuse
from causeway.cli.render import Format, Output, hint, print_json
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    from causeway.client import Client

MOST_LISTED = 1000  # the newest; the API has the rest

app = typer.Typer(
    name="attacks",
    help="List attacks, the newest first, and show one.",
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode=None,
)
alone = typer.Typer(rich_markup_mode=None)


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


@app.callback()
def list_(
    context: typer.Context,
    active: Annotated[bool, typer.Option("--active", help="Only those that go on.")] = False,
    application: Annotated[
        str | None, typer.Option("--app", metavar="APP", help="Only on this application; see `causeway apps list`.")
    ] = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List attacks, the newest first; `causeway attacks show ID` tells all about one."""
    if context.invoked_subcommand is not None:
        return
    with connect(url, token_file) as client:
        query = {"active": "true"} if active else {}
        if application:
            query["application"] = choose_application(all_applications(client, None), application)[1]["id"]
        found = client.attacks(query, MOST_LISTED)
    if output is Format.JSON:
        print_json(found)
    elif found:
        from causeway.cli.attacks_view import print_attacks

        print_attacks(found)
    else:
        hint("no attack goes on" if active else "no attacks yet")


@app.command(cls=GroupedCommand)
def show(
    attack: Annotated[str, typer.Argument(metavar="ID", help="Or its beginning.", show_default=False)],
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show one attack: course, rules, how sure they are, evidence."""
    with connect(url, token_file) as client:
        found = client.attack(_id(client, attack.lower()))
    if output is Format.JSON:
        print_json(found)
    else:
        from causeway.cli.attacks_view import print_attack

        print_attack(found)


@alone.command(cls=GroupedCommand)
def mitigation(
    switch: Annotated[
        Switch | None, typer.Argument(metavar="on|off", help="Else it is only told.", show_default=False)
    ] = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Tell what automatic mitigation does now, or switch it for all applications of all edges.

    Off ends every automatic rule within a second; rules and limits of your own go on. It stays off through restarts.
    """
    with connect(url, token_file) as client:
        told = client.mitigation() if switch is None else client.switch_mitigation(is_on=switch is Switch.ON)
    if output is Format.JSON:
        print_json(told)
    else:
        from causeway.cli.attacks_view import print_mitigation

        print_mitigation(told)


def _id(client: Client, wanted: str) -> str:
    if ID.fullmatch(wanted):
        return wanted
    if len(wanted) < PREFIX_MIN_CHARS:
        raise Misuse(f"{wanted!r} is too short: give {PREFIX_MIN_CHARS} characters of an ID or more")
    found = [known["id"] for known in client.attacks({}, MOST_LISTED) if known["id"].startswith(wanted)]
    if not found:
        raise Missing(f"there is no attack {wanted!r}; see `causeway attacks`")
    if len(found) > 1:
        raise Misuse(f"{wanted!r} is {len(found)} attacks; give one of their IDs: {', '.join(found)}")
    return found[0]
