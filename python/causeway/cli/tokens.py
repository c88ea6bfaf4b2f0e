"""`causeway tokens`: who may read and who may write through the API."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from causeway.cli.command import Group, GroupedCommand
from causeway.cli.problems import Missing, Misuse
from causeway.cli.render import Format, Output, hint, print_json, print_table, say
from causeway.cli.session import TokenFile, Url, connect

app = typer.Typer(
    name="tokens",
    help="Create, list and revoke API tokens.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Scope(StrEnum):
    READ = "read"
    WRITE = "write"


@app.command(cls=GroupedCommand)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for, like terraform.", show_default=False)],
    scope: Annotated[Scope, typer.Option("--scope", help="What it may do.", show_default=True)] = Scope.READ,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Make a token. Its value is shown this once and kept nowhere."""
    with connect(url, token_file) as client:
        token = client.create_token(name, scope)
    if output is Format.JSON:
        print_json(token)
    else:
        hint(f"created {scope} token {name} ({token['id']}); this is the only time its value is shown:")
        say(token.get("value", ""))


@app.command("list", cls=GroupedCommand)
def list_(output: Output = Format.TABLE, url: Url = None, token_file: TokenFile = None) -> None:
    """List tokens, without their values."""
    with connect(url, token_file) as client:
        tokens = client.tokens()
    if output is Format.JSON:
        print_json(tokens)
    else:
        print_table(
            ("ID", "NAME", "SCOPE", "CREATED"),
            [(token["id"], token["name"], token["scope"], token.get("created_on") or "-") for token in tokens],
        )


@app.command(cls=GroupedCommand)
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="ID or name, never the value.", show_default=False)],
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Take a token back; requests with it are refused from now on."""
    with connect(url, token_file) as client:
        found = [known for known in client.tokens() if token in (known["id"], known["name"])]
        if not found:
            raise Missing(f"there is no token {token!r}; see `causeway tokens list`")
        if len(found) > 1:
            raise Misuse(f"{len(found)} tokens are called {token!r}; give an ID from `causeway tokens list`")
        client.revoke_token(found[0]["id"])
    if output is Format.JSON:
        print_json({"id": found[0]["id"]})
    else:
        say(f"revoked token {found[0]['name']} ({found[0]['id']})")
